// SPDX-License-Identifier: GPL-2.0-or-later

//! A fabric that records what its owner posts, for comparison with the capture.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use smbdirect::fabric::forward_fabric;
use smbdirect::fabric::{ConnId, Event, Fabric, FabricError, RemoteAddress, Sge, Waitable, WrId};
use smbdirect::units::{Instant, RemoteToken};

/// A posted request that goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    Send {
        header: Vec<u8>,
        payload: u32,
        invalidate: Option<RemoteToken>,
    },
    Write {
        length: u32,
        target: RemoteAddress,
    },
    Read {
        length: u32,
        source: RemoteAddress,
    },
}

pub(crate) type Journal = Arc<Mutex<Vec<Posted>>>;

pub(crate) struct Recorder<F> {
    pub(crate) inner: F,
    pub(crate) journal: Journal,
}

impl<F> Recorder<F> {
    fn note(&self, result: Result<(), FabricError>, posted: Posted) -> Result<(), FabricError> {
        result?;
        self.journal.lock().unwrap().push(posted);
        Ok(())
    }
}

impl<F: Fabric> Fabric for Recorder<F> {
    forward_fabric!(self => self.inner;
        listen, local_address, conn_local_address, unlisten, admit_at, connect, accept, reject, close,
        register, deregister, post_recv);

    fn post_send(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), FabricError> {
        let result = self
            .inner
            .post_send(conn, wr_id, header, payload, invalidate);
        let payload = payload.map_or(0, |payload| payload.length);
        self.note(
            result,
            Posted::Send {
                header: header.to_vec(),
                payload,
                invalidate,
            },
        )
    }

    fn post_write(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), FabricError> {
        let result = self.inner.post_write(conn, wr_id, source, target);
        self.note(
            result,
            Posted::Write {
                length: source.length,
                target,
            },
        )
    }

    fn post_read(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), FabricError> {
        let result = self.inner.post_read(conn, wr_id, sink, source);
        self.note(
            result,
            Posted::Read {
                length: sink.length,
                source,
            },
        )
    }

    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        self.inner.poll(now, events)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.inner.poll_timeout()
    }
}

impl<F: Waitable> Waitable for Recorder<F> {
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event_fd()
    }
}
