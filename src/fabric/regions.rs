// SPDX-License-Identifier: GPL-2.0-or-later

//! The memory regions of one connection, which local work requests and the peer may touch. The checks that keep a
//! hostile peer out of other memory are here, once for all fabrics that do not leave them to a device.
//!
//! The table owns a handle of each memory, so code that finds a region has its memory, and code that does not find it
//! has nothing. The memory that a work request names is looked up when it is posted, and again each time its bytes
//! move: a region that was deregistered in between is not found, and neither is a later region with the same number.
//!
//! Tokens (STags) are random, so that a peer cannot guess one; a wrong guess ends its connection. A region is found by
//! its [`RegionId`] without a search, and by its token with a linear search, because a connection has few regions.

#[cfg(feature = "broker")]
mod kept;

use alloc::vec::Vec;

#[cfg(feature = "broker")]
pub(super) use self::kept::KeptRegions;

use super::{Access, RegionId, RemoteAddress, Sge};
use crate::units::RemoteToken;

/// A piece of memory that was registered when it was looked up, and must be looked up again before each use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Piece {
    region: RegionId,
    /// Distinguishes this registration from earlier and later ones with the same number.
    generation: u32,
    /// Offset from the start of the memory, in bytes.
    pub offset: u32,
    /// Number of bytes.
    pub length: u32,
}

impl Piece {
    /// A piece without bytes and without memory.
    pub const NOWHERE: Self = Self {
        region: RegionId(0),
        generation: 0,
        offset: 0,
        length: 0,
    };

    /// Returns the `length` bytes at `offset` within this piece. The look-up checks whether the memory has them.
    #[must_use]
    pub const fn part(self, offset: u32, length: u32) -> Self {
        let offset = self.offset.saturating_add(offset);
        Self {
            offset,
            length,
            ..self
        }
    }
}

/// Why a peer's access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum AccessFault {
    /// No region of the connection has this token, or it was revoked.
    Token,
    /// The region does not allow this kind of access.
    Access,
    /// The bytes extend past the end of the address space.
    Wrap,
    /// The bytes do not lie in the region.
    Bounds,
}

#[derive(Clone, Copy, Debug)]
struct Slot<M> {
    /// Number of registrations so far under this slot's number.
    generation: u32,
    /// The memory, while it is registered.
    memory: Option<M>,
    length: u32,
    access: Access,
    /// The peer's name for the region; `access` says whether the peer may use it.
    remote: RemoteAddress,
}

/// A table for a fixed number of regions. `M` is the owner's handle of a memory.
#[derive(Debug)]
pub struct Regions<M> {
    slots: Vec<Slot<M>>,
    capacity: usize,
}

impl<M> Regions<M> {
    /// Makes a table with room for `capacity` regions.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            slots: Vec::with_capacity(capacity),
            capacity,
        }
    }

    /// Registers `length` bytes of `memory` under the name `remote`. Returns `None` if there is no room, or if the
    /// token or the addresses cannot be used; another random `remote` cures the latter.
    pub fn register(
        &mut self,
        memory: M,
        length: u32,
        access: Access,
        remote: RemoteAddress,
    ) -> Option<RegionId> {
        let token_is_free = remote.token.0 != 0 && self.find(remote.token.0).is_none();
        if !token_is_free || remote.address.checked_add(u64::from(length)).is_none() {
            return None;
        }
        let free = self.slots.iter().position(|slot| slot.memory.is_none());
        let index = free.unwrap_or(self.slots.len());
        if index >= self.capacity {
            return None;
        }
        let id = RegionId(u32::try_from(index).ok()?);
        let old = self.slots.get_mut(index);
        let slot = Slot {
            generation: old.as_ref().map_or(0, |old| old.generation.wrapping_add(1)),
            memory: Some(memory),
            length,
            access,
            remote,
        };
        match old {
            Some(old) => *old = slot,
            None => self.slots.push(slot),
        }
        Some(id)
    }

    /// Returns whether another region can be registered.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.slots.len() < self.capacity || self.slots.iter().any(|slot| slot.memory.is_none())
    }

    /// Ends a registration and returns the memory; `None` if there is none.
    pub fn deregister(&mut self, region: RegionId) -> Option<M> {
        self.slots.get_mut(region.0 as usize)?.memory.take()
    }

    /// Returns the memory that a work request names, if it lies in a registered region.
    #[must_use]
    pub fn look_up(&self, sge: Sge) -> Option<Piece> {
        let Sge {
            region,
            offset,
            length,
        } = sge;
        let slot = self.slots.get(region.0 as usize)?;
        let piece = Piece {
            region,
            generation: slot.generation,
            offset,
            length,
        };
        self.slot(piece).map(|_| piece)
    }

    /// Returns the memory of a piece, if its registration is still valid.
    #[must_use]
    pub fn memory(&self, piece: Piece) -> Option<&M> {
        self.slot(piece)?.memory.as_ref()
    }

    /// Returns the memory of a piece that the peer reads, if the registration is still valid and the peer's access was
    /// not revoked.
    #[must_use]
    pub fn memory_for_peer(&self, piece: Piece) -> Option<&M> {
        let slot = self.slot(piece)?;
        match slot.access {
            Access::RemoteRead => slot.memory.as_ref(),
            Access::Local | Access::ReadSink | Access::RemoteWrite => None,
        }
    }

    /// Returns the local memory that the peer names, if it has this access.
    pub fn resolve(
        &self,
        token: u32,
        address: u64,
        length: u32,
        access: Access,
    ) -> Result<Piece, AccessFault> {
        let (region, slot) = self.find(token).ok_or(AccessFault::Token)?;
        if slot.access != access {
            return Err(AccessFault::Access);
        }
        address
            .checked_add(u64::from(length))
            .ok_or(AccessFault::Wrap)?;
        let offset = address.checked_sub(slot.remote.address);
        let offset = offset.and_then(|offset| u32::try_from(offset).ok());
        let offset = offset.ok_or(AccessFault::Bounds)?;
        let end = offset.checked_add(length).ok_or(AccessFault::Bounds)?;
        if end > slot.length {
            return Err(AccessFault::Bounds);
        }
        Ok(Piece {
            region,
            generation: slot.generation,
            offset,
            length,
        })
    }

    /// Revokes the peer's access; local work requests may continue to use the region. Returns `None` if this token gave
    /// no access.
    pub fn invalidate(&mut self, token: u32) -> Option<RemoteToken> {
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.is_reached_by(token))?;
        slot.access = Access::Local;
        Some(slot.remote.token)
    }

    /// Returns the registration in which `piece` lies.
    fn slot(&self, piece: Piece) -> Option<&Slot<M>> {
        let end = piece.offset.checked_add(piece.length)?;
        self.slots.get(piece.region.0 as usize).filter(|slot| {
            slot.generation == piece.generation && slot.memory.is_some() && end <= slot.length
        })
    }

    fn find(&self, token: u32) -> Option<(RegionId, &Slot<M>)> {
        let mut slots = (0..).map(RegionId).zip(&self.slots);
        slots.find(|(_, slot)| slot.is_reached_by(token))
    }
}

impl<M> Slot<M> {
    fn is_reached_by(&self, token: u32) -> bool {
        self.memory.is_some() && self.access.is_remote() && self.remote.token.0 == token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMOTE: RemoteAddress = RemoteAddress {
        token: RemoteToken(0x1234),
        address: 0x1000,
    };

    /// Makes a table with one region, whose memory has the handle 1.
    fn one(access: Access) -> (Regions<u8>, RegionId) {
        let mut regions = Regions::new(2);
        let region = regions.register(1, 100, access, REMOTE).unwrap();
        (regions, region)
    }

    const fn all(region: RegionId) -> Sge {
        Sge {
            region,
            offset: 0,
            length: 100,
        }
    }

    #[test]
    fn resolves_bytes_inside_a_region() {
        let (regions, region) = one(Access::RemoteWrite);
        let piece = regions.resolve(0x1234, 0x1000 + 99, 1, Access::RemoteWrite);
        let sge = Sge {
            region,
            offset: 99,
            length: 1,
        };
        assert_eq!(piece.ok(), regions.look_up(sge));
    }

    #[test]
    fn refuses_each_other_access_with_its_own_fault() {
        let (regions, _) = one(Access::RemoteWrite);
        for (stag, address, length, access, error) in [
            (0x1235, 0x1000, 1, Access::RemoteWrite, AccessFault::Token),
            (0x1234, 0x1000, 1, Access::RemoteRead, AccessFault::Access),
            (0x1234, 0xfff, 1, Access::RemoteWrite, AccessFault::Bounds),
            (
                0x1234,
                0x1000,
                101,
                Access::RemoteWrite,
                AccessFault::Bounds,
            ),
            (
                0x1234,
                0x1000 + 100,
                1,
                Access::RemoteWrite,
                AccessFault::Bounds,
            ),
            (
                0x1234,
                0x1000 + (1 << 32),
                1,
                Access::RemoteWrite,
                AccessFault::Bounds,
            ),
            (0x1234, u64::MAX, 1, Access::RemoteWrite, AccessFault::Wrap),
        ] {
            assert_eq!(
                regions.resolve(stag, address, length, access),
                Err(error),
                "{stag:#x} {address:#x}"
            );
        }
    }

    #[test]
    fn local_regions_have_no_remote_name() {
        let (mut regions, _) = one(Access::Local);
        assert_eq!(
            regions.resolve(0x1234, 0x1000, 1, Access::Local),
            Err(AccessFault::Token)
        );
        assert_eq!(regions.invalidate(0x1234), None);
    }

    #[test]
    fn invalidation_ends_only_the_remote_access() {
        let (mut regions, region) = one(Access::RemoteRead);
        assert_eq!(regions.invalidate(0x1234), Some(RemoteToken(0x1234)));
        assert_eq!(
            regions.resolve(0x1234, 0x1000, 1, Access::RemoteRead),
            Err(AccessFault::Token)
        );
        assert_eq!(regions.invalidate(0x1234), None);
        let piece = regions.look_up(all(region)).unwrap();
        assert_eq!(regions.memory(piece), Some(&1));
        assert_eq!(regions.memory_for_peer(piece), None);
    }

    #[test]
    fn slots_are_limited_and_used_again() {
        let (mut regions, first) = one(Access::Local);
        assert!(regions.register(2, 1, Access::RemoteRead, REMOTE).is_some());
        assert!(!regions.has_room());
        let other = RemoteAddress {
            token: RemoteToken(9),
            address: 0,
        };
        assert_eq!(regions.register(3, 1, Access::RemoteRead, other), None);
        assert_eq!(regions.deregister(first), Some(1));
        assert_eq!(regions.deregister(first), None);
        assert_eq!(
            regions.register(3, 1, Access::RemoteRead, REMOTE),
            None,
            "the token is in use"
        );
        let wrapping = RemoteAddress {
            token: RemoteToken(10),
            address: u64::MAX,
        };
        assert_eq!(regions.register(3, 1, Access::RemoteRead, wrapping), None);
        assert!(regions.register(3, 1, Access::RemoteRead, other).is_some());
        assert!(!regions.has_room());
        assert!(!Regions::<u8>::new(0).has_room());
    }

    #[test]
    fn a_piece_does_not_outlive_its_registration() {
        let mut regions = Regions::new(2);
        let stable = regions.register(7, 100, Access::Local, REMOTE).unwrap();
        let stable = regions.look_up(all(stable)).unwrap();
        let mut old = alloc::vec::Vec::new();
        for turn in 0..100_u32 {
            let region = regions
                .register(turn, 100, Access::RemoteRead, REMOTE)
                .unwrap();
            assert_eq!(region, RegionId(1));
            let piece = regions.look_up(all(region)).unwrap();
            assert_eq!(regions.memory(piece), Some(&turn));
            assert!(old.iter().all(|old| regions.memory(*old).is_none()));
            assert!(
                old.iter()
                    .all(|old| regions.memory_for_peer(*old).is_none())
            );
            assert_eq!(regions.deregister(region), Some(turn));
            assert_eq!(regions.memory(piece), None);
            assert_eq!(regions.look_up(all(region)), None);
            old.push(piece);
        }
        assert_eq!(regions.memory(stable), Some(&7));
    }

    #[test]
    fn finds_no_bytes_that_reach_outside_a_region() {
        let (regions, region) = one(Access::RemoteRead);
        let whole = regions.look_up(all(region)).unwrap();
        for (offset, length) in [(0, 101), (100, 1), (101, 0), (u32::MAX, 1), (1, u32::MAX)] {
            let sge = Sge {
                region,
                offset,
                length,
            };
            assert_eq!(regions.look_up(sge), None, "{sge:?}");
            let piece = Piece {
                offset,
                length,
                ..whole
            };
            assert_eq!(regions.memory(piece), None, "{piece:?}");
            assert_eq!(regions.memory_for_peer(piece), None, "{piece:?}");
        }
        assert_eq!(regions.memory_for_peer(whole), Some(&1));
        assert_eq!(regions.look_up(all(RegionId(1))), None);
        assert_eq!(Regions::<u8>::new(1).memory(Piece::NOWHERE), None);
    }
}
