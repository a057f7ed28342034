// SPDX-License-Identifier: GPL-2.0-or-later

//! Converts the library's values to the structures that C sees.

use std::ffi::c_void;

use super::types::*;
use crate::device::abi::{Address, ConnInfo, MemParams, RegionShape};
use crate::device::{ConnCounts, Event};

pub(super) const fn conn_info_of(
    type_size: u32,
    info: &ConnInfo,
    counts: ConnCounts,
) -> smbdirect_conn_info {
    smbdirect_conn_info {
        type_size,
        peer_port: info.peer_port,
        local_port: info.local_port,
        peer_address: info.peer_address,
        local_address: info.local_address,
        client_guid: info.client_guid,
        scope_id: info.scope_id,
        max_fragmented_send_size: info.max_fragmented_send_size,
        max_fragmented_receive_size: info.max_fragmented_receive_size,
        max_read_write_size: info.max_read_write_size,
        initiator_depth: info.initiator_depth,
        rdma_operations: counts.rdma_operations,
        sent_bytes: counts.sent_bytes,
        unsent_bytes: counts.unsent_bytes,
        peer_max_fragmented_size: info.peer_max_fragmented_size,
        reserved32: 0,
        reserved: [0; 3],
    }
}

pub(super) const fn address_of(type_size: u32, address: &Address) -> smbdirect_address {
    smbdirect_address {
        type_size,
        interface_index: address.interface,
        address: address.address,
        scope_id: address.scope_id,
        port: address.port,
        reserved16: 0,
        link_speed: address.link_speed,
        reserved: [0; 2],
    }
}

/// Returns the event in C's form. `data` is the first byte of the buffer that the event gives back, if there is one.
pub(super) fn event_of(type_size: u32, event: Event, data: *mut c_void) -> smbdirect_event {
    let mut value = smbdirect_event {
        type_size,
        kind: 0,
        status: SMBDIRECT_OK,
        length: 0,
        conn: 0,
        cookie: 0,
        pdu: 0,
        token: [0; 16],
        info: no_info(),
        buffer: 0,
        data,
        data_length: 0,
    };
    match event {
        Event::Attached => value.kind = SMBDIRECT_EVENT_ATTACHED,
        Event::Detached { status } => {
            value.kind = SMBDIRECT_EVENT_DETACHED;
            value.status = status.code();
        }
        Event::Offer { token, info } => {
            value.kind = SMBDIRECT_EVENT_OFFER;
            value.token = token;
            value.info = known(&info);
        }
        Event::Connection { info } => {
            value.kind = SMBDIRECT_EVENT_CONNECTION;
            value.conn = info.conn;
            value.info = known(&info);
        }
        Event::Pdu {
            conn,
            pdu,
            length,
            data: fetched,
        } => {
            value.kind = SMBDIRECT_EVENT_PDU;
            (value.conn, value.pdu, value.length) = (conn, pdu, length);
            if let Some(fetched) = fetched {
                (value.buffer, value.data_length) = (fetched.buffer, fetched.length.into());
            }
        }
        Event::Sent {
            conn,
            cookie,
            status,
            length,
        } => {
            value.kind = SMBDIRECT_EVENT_SENT;
            (value.conn, value.cookie, value.length) = (conn, cookie, length);
            value.status = status.code();
        }
        Event::RdmaDone {
            conn,
            cookie,
            status,
        } => {
            value.kind = SMBDIRECT_EVENT_RDMA_DONE;
            (value.conn, value.cookie, value.status) = (conn, cookie, status.code());
        }
        Event::Transferred {
            conn,
            cookie,
            status,
            token,
        } => {
            value.kind = SMBDIRECT_EVENT_TRANSFERRED;
            (value.conn, value.cookie, value.status) = (conn, cookie, status.code());
            value.token = token;
        }
        Event::Disconnected { conn, status } => {
            value.kind = SMBDIRECT_EVENT_DISCONNECTED;
            (value.conn, value.status) = (conn, status.code());
        }
        Event::Reply { cookie, status } => {
            value.kind = SMBDIRECT_EVENT_REPLY;
            (value.cookie, value.status) = (cookie, status.code());
        }
        Event::Room => value.kind = SMBDIRECT_EVENT_ROOM,
    }
    value
}

fn known(info: &ConnInfo) -> smbdirect_conn_info {
    conn_info_of(
        size_of::<smbdirect_conn_info>() as u32,
        info,
        ConnCounts::default(),
    )
}

const fn no_info() -> smbdirect_conn_info {
    smbdirect_conn_info {
        type_size: size_of::<smbdirect_conn_info>() as u32,
        peer_port: 0,
        local_port: 0,
        peer_address: [0; 16],
        local_address: [0; 16],
        client_guid: [0; 16],
        scope_id: 0,
        max_fragmented_send_size: 0,
        max_fragmented_receive_size: 0,
        max_read_write_size: 0,
        initiator_depth: 0,
        rdma_operations: 0,
        sent_bytes: 0,
        unsent_bytes: 0,
        peer_max_fragmented_size: 0,
        reserved32: 0,
        reserved: [0; 3],
    }
}

pub(super) fn mem_params_of(type_size: u32, params: &MemParams) -> smbdirect_mem_params {
    let RegionShape {
        unit_length,
        units_per_segment,
        longest_run,
        max_segments,
    } = params.bulk;
    let unit = u64::from(unit_length);
    let segment_length = unit * u64::from(units_per_segment);
    smbdirect_mem_params {
        type_size,
        buffer_unit: unit_length,
        buffer_max: unit * u64::from(longest_run),
        segment_length,
        buffers_total: segment_length * u64::from(max_segments),
        limit: params.limit,
        reserved: [0; 4],
    }
}
