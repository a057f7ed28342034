#![no_main]
// SPDX-License-Identifier: GPL-2.0-or-later

libfuzzer_sys::fuzz_target!(|data: &[u8]| smbdirect_fuzz::wire_rdma_transform(data));
