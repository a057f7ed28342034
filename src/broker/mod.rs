//! The smbdirect device in user space.

mod config;

pub use config::Config;
