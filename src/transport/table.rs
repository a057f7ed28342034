// SPDX-License-Identifier: GPL-2.0-or-later

//! [`ConnTable`]: one entry for each connection, by its number.
//!
//! Each entry is at the place that its [`ConnId`] contains. So a look-up, of which each message needs several, is an
//! index and a comparison. But a fabric reuses a place as soon as it is done with a connection, which may be before the
//! owner knows. The old entry then moves aside, because it must not vanish without an event.

use alloc::vec::Vec;

use slotmap::Key;

use crate::fabric::ConnId;

type Entry<V> = (ConnId, V);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct ConnTable<V> {
    places: Vec<Option<Entry<V>>>,
    /// Entries whose place another connection has; they are few, and do not stay long.
    displaced: Vec<Entry<V>>,
    len: usize,
}

impl<V> Default for ConnTable<V> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            displaced: Vec::new(),
            len: 0,
        }
    }
}

/// Returns the part of a connection's number that is the place of its entry; the upper half distinguishes the
/// connections that used that place.
fn place(id: ConnId) -> usize {
    id.data().as_ffi() as u32 as usize
}

impl<V> ConnTable<V> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn get(&self, id: ConnId) -> Option<&V> {
        match self.places.get(place(id)) {
            Some(Some((there, value))) if *there == id => Some(value),
            _ => {
                let mut displaced = self.displaced.iter();
                Some(&displaced.find(|(other, _)| *other == id)?.1)
            }
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut V> {
        match self.places.get_mut(place(id)) {
            Some(Some((there, value))) if *there == id => Some(value),
            _ => {
                let mut displaced = self.displaced.iter_mut();
                Some(&mut displaced.find(|(other, _)| *other == id)?.1)
            }
        }
    }

    /// Adds an entry if there is none.
    pub(crate) fn insert(&mut self, id: ConnId, value: V) {
        let place = place(id);
        if place >= self.places.len() {
            self.places.resize_with(place + 1, || None);
        }
        if let Some(entry) = self.places.get_mut(place) {
            self.displaced.extend(entry.replace((id, value)));
            self.len += 1;
        }
    }

    /// Returns the entry, or a default one if there is none.
    pub(crate) fn get_or_default(&mut self, id: ConnId) -> Option<&mut V>
    where
        V: Default,
    {
        if self.get(id).is_none() {
            self.insert(id, V::default());
        }
        self.get_mut(id)
    }

    pub(crate) fn remove(&mut self, id: ConnId) -> Option<V> {
        let entry = self.places.get_mut(place(id));
        let entry = entry.and_then(|entry| entry.take_if(|(there, _)| *there == id));
        let (_, value) = entry.or_else(|| {
            let mut displaced = self.displaced.iter();
            let at = displaced.position(|(other, _)| *other == id)?;
            Some(self.displaced.swap_remove(at))
        })?;
        self.len -= 1;
        Some(value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnId, &V)> {
        let entries = self.places.iter().flatten().chain(&self.displaced);
        entries.map(|(id, value)| (*id, value))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut V)> {
        let entries = self.places.iter_mut().flatten();
        entries
            .chain(&mut self.displaced)
            .map(|(id, value)| (*id, value))
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    #[test]
    fn a_connection_is_found_until_it_is_removed_although_another_has_its_place() {
        let mut ids = SlotMap::<ConnId, ()>::with_key();
        let mut table = ConnTable::default();
        let old = ids.insert(());
        table.insert(old, 1);
        ids.remove(old);
        let new = ids.insert(());
        assert_eq!(place(old), place(new));
        assert!(table.get(new).is_none());
        table.insert(new, 2);
        for (id, value) in [(old, 1), (new, 2)] {
            assert_eq!(*table.get(id).unwrap(), value);
            assert_eq!(*table.get_mut(id).unwrap(), value);
        }
        let mut all: Vec<_> = table.iter().map(|(id, _)| id).collect();
        all.sort_unstable();
        assert_eq!(all, [old, new]);
        assert_eq!((table.len(), table.iter_mut().count()), (2, 2));

        assert_eq!(table.remove(old), Some(1));
        assert!(table.remove(old).is_none() && table.get(old).is_none());
        assert_eq!(table.remove(new), Some(2));
        assert!(table.remove(new).is_none());
        assert_eq!((table.len(), table.iter().count()), (0, 0));
    }
}
