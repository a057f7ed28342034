// SPDX-License-Identifier: GPL-2.0-or-later

//! Keeps values under numbers that may go to another process and come back.
//!
//! A number consists of a place and of how often that place was given out, so that a made-up number, or one that comes
//! back twice, names nothing. The value itself never leaves this process.

/// Values under numbers. The memory grows to hold the largest number of values that there ever were at a time.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    /// Places without a value.
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    /// How often the place was given out; 0 only if it never was.
    generation: u32,
    value: Option<T>,
}

impl<T> Slots<T> {
    pub(super) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Returns the number of values.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts a value in, and returns its number, which is never 0.
    pub(super) fn insert(&mut self, value: T) -> u64 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                value: None,
            });
            // Each value is an operation with its memory: there are never 2^32 of them.
            (self.slots.len() - 1) as u32
        });
        let Some(slot) = self.slots.get_mut(place as usize) else {
            return 0;
        };
        // Generation 1 follows the last one: 0 is never given out.
        slot.generation = slot.generation.checked_add(1).unwrap_or(1);
        slot.value = Some(value);
        u64::from(slot.generation) << 32 | u64::from(place)
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        let (place, generation) = split(number);
        let slot = self.slots.get(place as usize)?;
        let value = slot.value.as_ref()?;
        (slot.generation == generation).then_some(value)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        self.get(number)?;
        let (place, _) = split(number);
        let value = self.slots.get_mut(place as usize)?.value.take();
        self.free.push(place);
        value
    }

    /// Takes all values out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.free.clear();
        let slots = std::mem::take(&mut self.slots);
        slots.into_iter().filter_map(|slot| slot.value)
    }
}

const fn split(number: u64) -> (u32, u32) {
    (number as u32, (number >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_names_its_value_once() {
        let mut slots = Slots::new();
        let (a, b) = (slots.insert('a'), slots.insert('b'));
        assert_eq!(slots.len(), 2);
        assert_eq!((slots.get(a), slots.get(b)), (Some(&'a'), Some(&'b')));
        assert_eq!(slots.remove(a), Some('a'));
        assert_eq!(slots.get(a), None);
        assert_eq!(slots.remove(a), None);
        let c = slots.insert('c');
        assert_eq!(c as u32, a as u32, "the place is used again");
        assert_ne!(c, a);
        assert_eq!((slots.get(a), slots.get(c)), (None, Some(&'c')));
    }

    #[test]
    fn a_number_that_was_made_up_names_nothing() {
        let mut slots = Slots::new();
        let a = slots.insert('a');
        for number in [0, a + 1, a ^ 1 << 32, a ^ 1 << 63, u64::MAX] {
            assert_eq!(slots.remove(number), None, "{number:#x}");
        }
        assert_eq!(slots.remove(a), Some('a'));
        slots.slots[0].generation = u32::MAX;
        let wrapped = slots.insert('b');
        assert_eq!(wrapped >> 32, 1);
    }

    #[test]
    fn everything_can_be_taken_out() {
        let mut slots = Slots::new();
        let numbers: Vec<_> = (0..5).map(|n| slots.insert(n)).collect();
        slots.remove(numbers[2]);
        assert_eq!(slots.drain().collect::<Vec<_>>(), [0, 1, 3, 4]);
        assert_eq!(slots.len(), 0);
        assert!(numbers.iter().all(|number| slots.get(*number).is_none()));
    }
}
