// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests SMB Direct connections between two ends of a loopback fabric, in virtual time, and runs the cases of
//! Microsoft's test suite over TCP.

mod limits;
mod memory;
mod messages;
mod moving;
mod ms_smbd;
mod mute;
mod pair;
mod progress;
mod rdma;
mod scene;
mod simulation;
