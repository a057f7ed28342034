// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that structures have the same layout in C and in Rust, and no padding.

use std::fmt::Write;
use std::fs;

use smbdirect::ffi::*;

use instruments::c::{compile, directory, header};

/// Writes C assertions that a structure has the same size and offsets as in Rust, after checking that each field begins
/// at the end of the one before it.
macro_rules! layout {
    ($text:ident, $name:ident { $($field:ident),* $(,)? }) => {{
        let name = stringify!($name);
        // This compiles only if every field is named here.
        let complete = |value: $name| { let $name { $($field),* } = value; $(let _ = $field;)* };
        let _ = complete;
        let mut end = 0;
        $(
            let offset = std::mem::offset_of!($name, $field);
            assert_eq!(offset, end, "padding before {}.{}", name, stringify!($field));
            end += size_of_field(|value: &$name| &value.$field);
            let field = stringify!($field);
            writeln!($text, "_Static_assert(offsetof(struct {name}, {field}) == {offset}, \"{name}.{field}\");").unwrap();
        )*
        assert_eq!(end, size_of::<$name>(), "padding at the end of {name}");
        writeln!($text, "_Static_assert(sizeof(struct {name}) == {end}, \"{name}\");").unwrap();
    }};
}

fn size_of_field<T, F>(_: impl FnOnce(&T) -> &F) -> usize {
    size_of::<F>()
}

#[test]
fn structures_are_the_same_in_c_and_have_no_padding() {
    let mut text = String::from("#include <stddef.h>\n#include <smbdirect.h>\n");
    layout!(
        text,
        smbdirect_attach {
            type_size,
            role,
            token,
            reserved
        }
    );
    layout!(
        text,
        smbdirect_allowed_address {
            type_size,
            scope_id,
            address,
            reserved
        }
    );
    layout!(
        text,
        smbdirect_client_note {
            type_size,
            value,
            address,
            note,
            port,
            local_port,
            reserved16,
            local_address,
            reserved
        }
    );
    layout!(
        text,
        smbdirect_parameters {
            type_size,
            receive_credit_max,
            send_credit_target,
            max_send_size,
            max_receive_size,
            max_fragmented_size,
            max_read_write_size,
            keepalive_interval_ms,
            reserved32,
            server_guid,
            reserved,
        }
    );
    layout!(
        text,
        smbdirect_session {
            type_size,
            remove,
            session_id,
            client_guid,
            reserved
        }
    );
    layout!(
        text,
        smbdirect_mem_params {
            type_size,
            buffer_unit,
            buffer_max,
            segment_length,
            buffers_total,
            limit,
            reserved,
        }
    );
    layout!(
        text,
        smbdirect_buffer {
            type_size,
            reserved32,
            number,
            start,
            length,
            reserved
        }
    );
    layout!(
        text,
        smbdirect_pdu {
            type_size,
            flags,
            conn,
            cookie,
            pieces,
            piece_count,
            token,
            reserved,
        }
    );
    layout!(
        text,
        smbdirect_rdma {
            type_size,
            direction,
            conn,
            cookie,
            buffer,
            offset,
            length,
            descriptors,
            descriptors_length,
            flags,
            reserved32,
            reserved,
        }
    );
    layout!(
        text,
        smbdirect_conn_info {
            type_size,
            peer_port,
            local_port,
            peer_address,
            local_address,
            client_guid,
            scope_id,
            max_fragmented_send_size,
            max_fragmented_receive_size,
            max_read_write_size,
            initiator_depth,
            rdma_operations,
            sent_bytes,
            unsent_bytes,
            peer_max_fragmented_size,
            reserved32,
            reserved,
        }
    );
    layout!(
        text,
        smbdirect_event {
            type_size,
            kind,
            status,
            length,
            conn,
            cookie,
            pdu,
            token,
            info,
            buffer,
            data,
            data_length,
        }
    );
    layout!(
        text,
        smbdirect_address {
            type_size,
            interface_index,
            address,
            scope_id,
            port,
            reserved16,
            link_speed,
            reserved,
        }
    );
    layout!(
        text,
        smbdirect_transfer {
            type_size,
            channel,
            length,
            descriptors_offset,
            descriptors_length,
            reserved32,
            reserved,
        }
    );
    layout!(
        text,
        smbdirect_transform {
            type_size,
            transform_type,
            length,
            descriptors_offset,
            descriptors_length,
            signature_offset,
            signature_length,
            nonce_offset,
            nonce_length,
            reserved32,
            reserved,
        }
    );
    let header = fs::read_to_string(header()).unwrap();
    let declared = header.lines().filter(|line| {
        line.starts_with("typedef struct") || line.starts_with("struct") && line.ends_with('{')
    });
    let checked = text.matches("_Static_assert(sizeof").count();
    assert_eq!(
        declared.count(),
        checked,
        "this test does not check a structure of the header"
    );

    let source = directory("header-layout").join("layout.c");
    fs::write(&source, text + "int main(void) { return 0; }\n").unwrap();
    compile("cc", "c11", &source, &["-fsyntax-only"]);
}
