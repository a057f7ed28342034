//! The memory regions of one queue pair: what local work requests and the peer may touch.
//!
//! Tokens (STags) are random, so that a peer cannot guess one; a wrong guess ends its connection.

use alloc::vec::Vec;

use super::IwarpError;
use crate::fabric::{Access, RegionId, RemoteAddress, Sge};
use crate::units::RemoteToken;

#[derive(Clone, Copy, Debug)]
struct Slot {
    registered: bool,
    length: u32,
    access: Access,
    /// The peer's name for it; `access` says whether it has any use.
    remote: RemoteAddress,
}

/// A fixed number of regions.
#[derive(Debug)]
pub struct Regions {
    slots: Vec<Slot>,
    capacity: usize,
}

impl Regions {
    /// Room for `capacity` regions.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            slots: Vec::with_capacity(capacity),
            capacity,
        }
    }

    /// Registers `length` bytes under the name `remote`. `None`: no room, or the token or the
    /// addresses cannot be used; with another random `remote` only the former happens again.
    pub fn register(
        &mut self,
        length: u32,
        access: Access,
        remote: RemoteAddress,
    ) -> Option<RegionId> {
        let token_is_free = remote.token.0 != 0 && self.find(remote.token.0).is_none();
        if !token_is_free || remote.address.checked_add(u64::from(length)).is_none() {
            return None;
        }
        let slot = Slot {
            registered: true,
            length,
            access,
            remote,
        };
        let index = match self.slots.iter().position(|slot| !slot.registered) {
            Some(index) => {
                *self.slots.get_mut(index)? = slot;
                index
            }
            None if self.slots.len() < self.capacity => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
            None => return None,
        };
        u32::try_from(index).ok().map(RegionId)
    }

    /// Whether another region can be registered.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.slots.len() < self.capacity || self.slots.iter().any(|slot| !slot.registered)
    }

    /// Ends a registration; `false` where there is none.
    pub fn deregister(&mut self, region: RegionId) -> bool {
        match self.slots.get_mut(region.0 as usize) {
            Some(slot) if slot.registered => {
                slot.registered = false;
                true
            }
            _ => false,
        }
    }

    /// Whether `sge` lies in a registered region.
    #[must_use]
    pub fn contains(&self, sge: Sge) -> bool {
        self.slots.get(sge.region.0 as usize).is_some_and(|slot| {
            slot.registered
                && sge
                    .offset
                    .checked_add(sge.length)
                    .is_some_and(|end| end <= slot.length)
        })
    }

    /// The local memory that the peer means, if it has the access.
    pub fn resolve(
        &self,
        stag: u32,
        address: u64,
        length: u32,
        access: Access,
    ) -> Result<Sge, IwarpError> {
        let (index, slot) = self.find(stag).ok_or(IwarpError::DdpInvalidStag)?;
        if slot.access != access {
            return Err(IwarpError::RdmapAccess);
        }
        address
            .checked_add(u64::from(length))
            .ok_or(IwarpError::DdpOffsetWrap)?;
        let offset = address
            .checked_sub(slot.remote.address)
            .ok_or(IwarpError::DdpBaseOrBounds)?;
        let offset = u32::try_from(offset).map_err(|_| IwarpError::DdpBaseOrBounds)?;
        let end = offset
            .checked_add(length)
            .ok_or(IwarpError::DdpBaseOrBounds)?;
        if end > slot.length {
            return Err(IwarpError::DdpBaseOrBounds);
        }
        Ok(Sge {
            region: RegionId(index),
            offset,
            length,
        })
    }

    /// Takes the peer's access away; local work requests may go on using the region.
    pub fn invalidate(&mut self, stag: u32) -> Result<RemoteToken, IwarpError> {
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.reachable_as(stag))
            .ok_or(IwarpError::RdmapCannotInvalidate)?;
        slot.access = Access::Local;
        Ok(slot.remote.token)
    }

    fn find(&self, stag: u32) -> Option<(u32, &Slot)> {
        (0..)
            .zip(&self.slots)
            .find(|(_, slot)| slot.reachable_as(stag))
    }
}

impl Slot {
    fn reachable_as(&self, stag: u32) -> bool {
        self.registered && self.access != Access::Local && self.remote.token.0 == stag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMOTE: RemoteAddress = RemoteAddress {
        token: RemoteToken(0x1234),
        address: 0x1000,
    };

    fn one(access: Access) -> (Regions, RegionId) {
        let mut regions = Regions::new(2);
        let region = regions.register(100, access, REMOTE).unwrap();
        (regions, region)
    }

    #[test]
    fn resolves_what_lies_inside() {
        let (regions, region) = one(Access::RemoteWrite);
        let sge = regions.resolve(0x1234, 0x1000 + 99, 1, Access::RemoteWrite);
        assert_eq!(
            sge,
            Ok(Sge {
                region,
                offset: 99,
                length: 1
            })
        );
    }

    #[test]
    fn refuses_the_rest_by_name() {
        let (regions, _) = one(Access::RemoteWrite);
        for (stag, address, length, access, error) in [
            (
                0x1235,
                0x1000,
                1,
                Access::RemoteWrite,
                IwarpError::DdpInvalidStag,
            ),
            (
                0x1234,
                0x1000,
                1,
                Access::RemoteRead,
                IwarpError::RdmapAccess,
            ),
            (
                0x1234,
                0xfff,
                1,
                Access::RemoteWrite,
                IwarpError::DdpBaseOrBounds,
            ),
            (
                0x1234,
                0x1000,
                101,
                Access::RemoteWrite,
                IwarpError::DdpBaseOrBounds,
            ),
            (
                0x1234,
                0x1000 + 100,
                1,
                Access::RemoteWrite,
                IwarpError::DdpBaseOrBounds,
            ),
            (
                0x1234,
                0x1000 + (1 << 32),
                1,
                Access::RemoteWrite,
                IwarpError::DdpBaseOrBounds,
            ),
            (
                0x1234,
                u64::MAX,
                1,
                Access::RemoteWrite,
                IwarpError::DdpOffsetWrap,
            ),
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
            Err(IwarpError::DdpInvalidStag)
        );
        assert_eq!(
            regions.invalidate(0x1234),
            Err(IwarpError::RdmapCannotInvalidate)
        );
    }

    #[test]
    fn invalidation_takes_the_remote_access_alone() {
        let (mut regions, region) = one(Access::RemoteRead);
        assert_eq!(regions.invalidate(0x1234), Ok(RemoteToken(0x1234)));
        assert_eq!(
            regions.resolve(0x1234, 0x1000, 1, Access::RemoteRead),
            Err(IwarpError::DdpInvalidStag)
        );
        assert_eq!(
            regions.invalidate(0x1234),
            Err(IwarpError::RdmapCannotInvalidate)
        );
        assert!(regions.contains(Sge {
            region,
            offset: 0,
            length: 100
        }));
    }

    #[test]
    fn rooms_are_bounded_and_used_again() {
        let (mut regions, first) = one(Access::Local);
        assert!(regions.register(1, Access::RemoteRead, REMOTE).is_some());
        assert!(!regions.has_room());
        let other = RemoteAddress {
            token: RemoteToken(9),
            address: 0,
        };
        assert_eq!(regions.register(1, Access::RemoteRead, other), None);
        assert!(regions.deregister(first));
        assert!(!regions.deregister(first));
        assert!(!regions.contains(Sge {
            region: first,
            offset: 0,
            length: 1
        }));
        assert_eq!(
            regions.register(1, Access::RemoteRead, REMOTE),
            None,
            "a token in use"
        );
        assert_eq!(regions.register(1, Access::RemoteRead, other), Some(first));
        let wrapping = RemoteAddress {
            token: RemoteToken(10),
            address: u64::MAX,
        };
        assert!(regions.deregister(first));
        assert_eq!(regions.register(1, Access::RemoteRead, wrapping), None);
    }
}
