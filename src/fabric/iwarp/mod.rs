//! iWARP: MPA (RFC 5044, RFC 6581), DDP (RFC 5041) and RDMAP (RFC 5040).

/// placeholder
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum IwarpError {
    /// x
    #[error("x")]
    X,
}
impl IwarpError {
    /// A name for counters: lower case, words joined by `_`, stable.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}
