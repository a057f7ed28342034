//! x
/// c
#[derive(Debug)]
pub struct Config;
/// c
#[derive(Debug)]
pub struct Iwarp;
