//! The smbdirect device in user space.

mod config;
mod quantity;
mod settings;

pub use config::{Config, OutOfRange, PORT};
pub use settings::{NoAddress, Settings, SettingsError, parse_address};
