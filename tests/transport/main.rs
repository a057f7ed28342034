//! SMB Direct connections between two ends of a loopback fabric, in virtual time.

mod limits;
mod memory;
mod messages;
mod mute;
mod pair;
mod progress;
mod rdma;
mod scene;
mod simulation;
