//! How many connections may wait behind listeners.

use std::collections::HashMap;
use std::net::IpAddr;

/// Connections that have not finished the handshake, in total and by source address.
#[derive(Debug)]
pub(crate) struct Pending {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
    max_total: usize,
    max_per_source: usize,
}

impl Pending {
    pub(crate) fn new(max_total: usize, max_per_source: usize) -> Self {
        Self {
            total: 0,
            by_source: HashMap::new(),
            max_total,
            max_per_source,
        }
    }

    pub(crate) const fn total(&self) -> usize {
        self.total
    }

    /// Takes a place; `false` where there is none.
    pub(crate) fn take(&mut self, source: IpAddr) -> bool {
        let of_source = self.by_source.get(&source).copied().unwrap_or(0);
        if self.total >= self.max_total || of_source >= self.max_per_source {
            return false;
        }
        self.total += 1;
        self.by_source.insert(source, of_source + 1);
        true
    }

    /// Gives a place back.
    pub(crate) fn give(&mut self, source: IpAddr) {
        self.total = self.total.saturating_sub(1);
        if let Some(of_source) = self.by_source.get_mut(&source) {
            *of_source -= 1;
            if *of_source == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_in_total_and_by_source() {
        let mut pending = Pending::new(3, 2);
        let [a, b, c]: [IpAddr; 3] = ["10.0.0.1", "10.0.0.2", "::1"].map(|ip| ip.parse().unwrap());
        assert!(pending.take(a) && pending.take(a) && !pending.take(a));
        assert!(pending.take(b) && !pending.take(c));
        pending.give(a);
        assert!(pending.take(c) && !pending.take(a));
        for source in [a, b, c] {
            pending.give(source);
        }
        assert_eq!((pending.total(), pending.by_source.len()), (0, 0));
    }
}
