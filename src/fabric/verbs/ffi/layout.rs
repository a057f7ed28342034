// SPDX-License-Identifier: GPL-2.0-or-later

//! Compares the layouts and numbers in `abi` with those of the installed headers.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use super::abi;

macro_rules! fields {
    ($($c:literal $rust:ident { $($field:ident = $name:literal),* $(,)? })*) => {
        vec![$($((
            concat!("offsetof(", $c, ", ", $name, ")"),
            std::mem::offset_of!(abi::$rust, $field),
        )),*),*]
    };
}

macro_rules! sizes {
    ($($c:literal $rust:ident),*) => {
        vec![$((concat!("sizeof(", $c, ")"), size_of::<abi::$rust>())),*]
    };
}

macro_rules! numbers {
    ($($name:ident),*) => {
        vec![$((stringify!($name), abi::$name as usize)),*]
    };
}

#[test]
fn layouts_and_numbers_are_those_of_the_headers() {
    let mut all = fields! {
        "struct ibv_device" ibv_device { node_type = "node_type", transport_type = "transport_type", name = "name" }
        "struct ibv_context_ops" ibv_context_ops {
            poll_cq = "poll_cq", req_notify_cq = "req_notify_cq", post_send = "post_send", post_recv = "post_recv",
        }
        "struct ibv_context" ibv_context { device = "device", ops = "ops", cmd_fd = "cmd_fd", async_fd = "async_fd" }
        "struct ibv_qp" ibv_qp { context = "context" }
        "struct ibv_mr" ibv_mr { addr = "addr", length = "length", lkey = "lkey", rkey = "rkey" }
        "struct ibv_comp_channel" ibv_comp_channel { fd = "fd" }
        "struct ibv_device_attr" ibv_device_attr {
            max_qp_wr = "max_qp_wr", device_cap_flags = "device_cap_flags", max_cqe = "max_cqe",
            max_qp_rd_atom = "max_qp_rd_atom", max_qp_init_rd_atom = "max_qp_init_rd_atom",
            max_pkeys = "max_pkeys", phys_port_cnt = "phys_port_cnt",
        }
        "struct ibv_wc" ibv_wc {
            wr_id = "wr_id", status = "status", opcode = "opcode", byte_len = "byte_len",
            invalidated_rkey = "invalidated_rkey", wc_flags = "wc_flags",
        }
        "struct ibv_sge" ibv_sge { addr = "addr", length = "length", lkey = "lkey" }
        "struct ibv_send_wr" ibv_send_wr {
            wr_id = "wr_id", next = "next", sg_list = "sg_list", num_sge = "num_sge", opcode = "opcode",
            send_flags = "send_flags", invalidate_rkey = "invalidate_rkey",
            remote_addr = "wr.rdma.remote_addr", rkey = "wr.rdma.rkey",
        }
        "struct ibv_recv_wr" ibv_recv_wr { wr_id = "wr_id", next = "next", sg_list = "sg_list", num_sge = "num_sge" }
        "struct ibv_qp_init_attr" ibv_qp_init_attr {
            send_cq = "send_cq", recv_cq = "recv_cq", srq = "srq", cap = "cap", qp_type = "qp_type",
            sq_sig_all = "sq_sig_all",
        }
        "struct ibv_async_event" ibv_async_event { element = "element", event_type = "event_type" }
        "struct rdma_event_channel" rdma_event_channel { fd = "fd" }
        "struct rdma_cm_id" rdma_cm_id {
            verbs = "verbs", qp = "qp", src_addr = "route.addr.src_addr", dst_addr = "route.addr.dst_addr",
        }
        "struct rdma_conn_param" rdma_conn_param {
            private_data = "private_data", private_data_len = "private_data_len",
            responder_resources = "responder_resources", initiator_depth = "initiator_depth",
            retry_count = "retry_count", rnr_retry_count = "rnr_retry_count", qp_num = "qp_num",
        }
        "struct rdma_cm_event" rdma_cm_event {
            id = "id", listen_id = "listen_id", event = "event", status = "status", conn = "param.conn",
        }
    };
    all.extend(sizes! {
        "struct ibv_context_ops" ibv_context_ops, "struct ibv_device_attr" ibv_device_attr, "struct ibv_wc" ibv_wc,
        "struct ibv_sge" ibv_sge, "struct ibv_send_wr" ibv_send_wr, "struct ibv_recv_wr" ibv_recv_wr,
        "struct ibv_qp_cap" ibv_qp_cap, "struct ibv_qp_init_attr" ibv_qp_init_attr,
        "struct ibv_async_event" ibv_async_event, "struct rdma_conn_param" rdma_conn_param
    });
    all.extend(numbers! {
        RDMA_PS_TCP, RDMA_OPTION_ID, RDMA_OPTION_ID_AFONLY, IBV_TRANSPORT_IWARP,
        IBV_DEVICE_MEM_MGT_EXTENSIONS, IBV_QPT_RC, IBV_ACCESS_LOCAL_WRITE, IBV_ACCESS_REMOTE_WRITE,
        IBV_ACCESS_REMOTE_READ, IBV_WR_RDMA_WRITE, IBV_WR_SEND, IBV_WR_RDMA_READ,
        IBV_WR_SEND_WITH_INV, IBV_SEND_SIGNALED, IBV_SEND_INLINE, IBV_WC_WITH_INV
    });
    let mut source = String::from(
        "#include <stddef.h>\n#include <infiniband/verbs.h>\n#include <rdma/rdma_cma.h>\n",
    );
    for (n, (expression, value)) in all.iter().enumerate() {
        writeln!(
            source,
            "_Static_assert({expression} == {value}, \"{n}: {expression} is not {value}\");"
        )
        .unwrap();
    }
    let headers = [
        "/usr/include/infiniband/verbs.h",
        "/usr/include/rdma/rdma_cma.h",
    ];
    if let Some(missing) = headers.iter().find(|path| !Path::new(path).exists()) {
        eprintln!("SKIPPED: {missing} is missing (libibverbs-dev, librdmacm-dev)");
        return;
    }
    let path = std::env::temp_dir().join(format!("smbdirect-layout-{}.c", std::process::id()));
    std::fs::write(&path, source).unwrap();
    let compiled = Command::new("cc").arg("-fsyntax-only").arg(&path).output();
    std::fs::remove_file(&path).unwrap();
    let compiled = compiled.expect("cc is installed");
    let errors = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{errors}");
}
