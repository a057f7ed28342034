//! The connections of a transport by their number.
//!
//! Each lies at the place that is a part of its [`ConnId`], so that a look-up, of which there are several for each
//! message, is an index and a comparison. But a fabric gives a place away again as soon as it is done with a
//! connection, which may be before its owner was told: then the old one moves aside, for it must not vanish without
//! an event.

use alloc::boxed::Box;
use alloc::vec::Vec;

use slotmap::Key;

use super::connection::Connection;
use crate::fabric::ConnId;

type Entry<Buffer> = (ConnId, Box<Connection<Buffer>>);

#[derive(Debug)]
pub(super) struct Table<Buffer> {
    places: Vec<Option<Entry<Buffer>>>,
    /// Those whose place another one has: few, and not for long.
    displaced: Vec<Entry<Buffer>>,
    len: usize,
}

impl<Buffer> Default for Table<Buffer> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            displaced: Vec::new(),
            len: 0,
        }
    }
}

/// The part of the number that says where it lies; the upper half says which of those it is that lay there.
fn place(id: ConnId) -> usize {
    id.data().as_ffi() as u32 as usize
}

impl<Buffer> Table<Buffer> {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn get(&self, id: ConnId) -> Option<&Connection<Buffer>> {
        match self.places.get(place(id)) {
            Some(Some((there, conn))) if *there == id => Some(conn),
            _ => {
                let mut displaced = self.displaced.iter();
                Some(&*displaced.find(|(other, _)| *other == id)?.1)
            }
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection<Buffer>> {
        match self.places.get_mut(place(id)) {
            Some(Some((there, conn))) if *there == id => Some(conn),
            _ => {
                let mut displaced = self.displaced.iter_mut();
                Some(&mut *displaced.find(|(other, _)| *other == id)?.1)
            }
        }
    }

    /// Adds a connection that is not there yet.
    pub(super) fn insert(&mut self, id: ConnId, conn: Box<Connection<Buffer>>) {
        let place = place(id);
        if place >= self.places.len() {
            self.places.resize_with(place + 1, || None);
        }
        if let Some(entry) = self.places.get_mut(place) {
            self.displaced.extend(entry.replace((id, conn)));
            self.len += 1;
        }
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Box<Connection<Buffer>>> {
        let entry = self.places.get_mut(place(id));
        let entry = entry.and_then(|entry| entry.take_if(|(there, _)| *there == id));
        let (_, conn) = entry.or_else(|| {
            let mut displaced = self.displaced.iter();
            let at = displaced.position(|(other, _)| *other == id)?;
            Some(self.displaced.swap_remove(at))
        })?;
        self.len -= 1;
        Some(conn)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnId, &Connection<Buffer>)> {
        let entries = self.places.iter().flatten().chain(&self.displaced);
        entries.map(|(id, conn)| (*id, &**conn))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut Connection<Buffer>)> {
        let entries = self.places.iter_mut().flatten();
        entries
            .chain(&mut self.displaced)
            .map(|(id, conn)| (*id, &mut **conn))
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;
    use crate::proto;
    use crate::transport::Config;
    use crate::units::Instant;

    fn connection(port: u16) -> Box<Connection<()>> {
        let config = Config::new(proto::Config::default(), proto::Config::default());
        let peer = ([192, 0, 2, 1], port).into();
        Box::new(Connection::new(&config, None, peer, Instant::ZERO))
    }

    #[test]
    fn a_connection_is_found_until_it_is_removed_although_another_has_its_place() {
        let mut ids = SlotMap::<ConnId, ()>::with_key();
        let mut table = Table::default();
        let old = ids.insert(());
        table.insert(old, connection(1));
        ids.remove(old);
        let new = ids.insert(());
        assert_eq!(place(old), place(new));
        assert!(table.get(new).is_none());
        table.insert(new, connection(2));
        for (id, port) in [(old, 1), (new, 2)] {
            assert_eq!(table.get(id).unwrap().peer.port(), port);
            assert_eq!(table.get_mut(id).unwrap().peer.port(), port);
        }
        let mut all: Vec<_> = table.iter().map(|(id, _)| id).collect();
        all.sort_unstable();
        assert_eq!(all, [old, new]);
        assert_eq!((table.len(), table.iter_mut().count()), (2, 2));

        assert_eq!(table.remove(old).unwrap().peer.port(), 1);
        assert!(table.remove(old).is_none() && table.get(old).is_none());
        assert_eq!(table.remove(new).unwrap().peer.port(), 2);
        assert!(table.remove(new).is_none());
        assert_eq!((table.len(), table.iter().count()), (0, 0));
    }
}
