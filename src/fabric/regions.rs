//! The memory regions of one connection, by local number and by remote token.
//!
//! Every fabric that checks accesses itself needs the same table: it is here so that the checks
//! that keep a hostile peer out of other memory exist once. A region is found by its [`RegionId`]
//! without a search, and by its token by a binary search: 32 random bits in each token leave no
//! room for an index. Nothing here moves bytes, and nothing here ends a connection: the fabric
//! does, with what it is told.

use super::{Access, FabricError, Region, RegionId, RemoteAddress, Sge};
use crate::sys::Memory;
use crate::units::RemoteToken;

/// Why a peer's access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum AccessFault {
    /// No region of the connection has this token, or it was revoked.
    Token,
    /// The region does not allow this kind of access.
    Access,
    /// The bytes do not lie in the region.
    Bounds,
}

impl AccessFault {
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// Random numbers for tokens, drawn from the operating system a few at a time.
///
/// A token is all that a peer must know to reach memory, so no generator stands in between whose
/// state its output would give away.
#[derive(Debug)]
pub(crate) struct Tokens {
    pool: [u32; 64],
    left: usize,
}

impl Tokens {
    /// Draws the first ones, so that a system without random numbers shows at construction.
    pub(crate) fn new() -> Result<Self, FabricError> {
        let mut tokens = Self {
            pool: [0; 64],
            left: 0,
        };
        tokens.refill()?;
        Ok(tokens)
    }

    /// A random number that is not 0: no token is, so that a descriptor of zeros is never valid.
    fn draw(&mut self) -> Result<u32, FabricError> {
        loop {
            if self.left == 0 {
                self.refill()?;
            }
            self.left -= 1;
            let token = std::mem::take(&mut self.pool[self.left]);
            if token != 0 {
                return Ok(token);
            }
        }
    }

    fn refill(&mut self) -> Result<(), FabricError> {
        let mut bytes = [0; 64 * 4];
        getrandom::fill(&mut bytes).map_err(|error| FabricError::Os {
            context: "get random numbers for the tokens of memory regions".to_owned(),
            source: std::io::Error::from(error).into(),
        })?;
        for (token, bytes) in self.pool.iter_mut().zip(bytes.chunks_exact(4)) {
            *token = bytes
                .iter()
                .fold(0, |token, byte| token << 8 | u32::from(*byte));
        }
        self.left = self.pool.len();
        Ok(())
    }
}

/// A local piece of memory that was checked when its work request was posted. It is looked up again
/// when it is used, and not found if its region was deregistered in between, even where the number
/// of the region has a new owner by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    sge: Sge,
    generation: u32,
}

impl Piece {
    /// Bytes.
    pub(crate) const fn length(self) -> u32 {
        self.sge.length
    }
}

#[derive(Debug)]
struct Slot {
    /// Counts the registrations under this number.
    generation: u32,
    registered: Option<Registered>,
}

#[derive(Debug)]
struct Registered {
    memory: Memory,
    access: Access,
    /// What the peer calls it, whether revoked or not.
    remote: RemoteAddress,
}

/// The regions of one connection.
#[derive(Debug)]
pub(crate) struct Regions {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Token and slot of what the peer may reach now, in the order of tokens.
    by_token: Vec<(RemoteToken, u32)>,
    limit: usize,
}

impl Regions {
    /// No regions, and room for `limit`.
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_token: Vec::new(),
            limit,
        }
    }

    /// Registers `memory`. Its remote address begins at a number other than 0, so that whoever
    /// forgets to add it does not get away with that here and fail with the clients that publish
    /// virtual addresses.
    pub(crate) fn register(
        &mut self,
        memory: &Memory,
        access: Access,
        tokens: &mut Tokens,
    ) -> Result<Region, FabricError> {
        let used = self.slots.len() - self.free.len();
        if used >= self.limit {
            return Err(FabricError::TooManyRegions);
        }
        let new = u32::try_from(self.slots.len()).map_err(|_| FabricError::TooManyRegions)?;
        let (token, place) = match access {
            Access::Local | Access::ReadSink => (RemoteToken(0), None),
            Access::RemoteRead | Access::RemoteWrite => {
                self.unused_token(tokens).map(|(t, p)| (t, Some(p)))?
            }
        };
        let number = self.free.pop().unwrap_or(new);
        if number == new {
            self.slots.push(Slot {
                generation: 0,
                registered: None,
            });
        }
        if let Some(place) = place {
            self.by_token.insert(place, (token, number));
        }
        let remote = RemoteAddress {
            token,
            address: u64::from(token.0) << 12,
        };
        if let Some(slot) = self.slots.get_mut(number as usize) {
            slot.registered = Some(Registered {
                memory: memory.clone(),
                access,
                remote,
            });
        }
        Ok(Region {
            id: RegionId(number),
            remote,
        })
    }

    fn unused_token(&self, tokens: &mut Tokens) -> Result<(RemoteToken, usize), FabricError> {
        loop {
            let token = RemoteToken(tokens.draw()?);
            if let Err(place) = self.find(token) {
                return Ok((token, place));
            }
        }
    }

    /// Ends a registration: neither posted work nor the peer finds the memory any more.
    pub(crate) fn deregister(&mut self, id: RegionId) -> Result<(), FabricError> {
        let slot = self
            .slots
            .get_mut(id.0 as usize)
            .ok_or(FabricError::LocalProtection)?;
        let registered = slot.registered.take().ok_or(FabricError::LocalProtection)?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.0);
        if let Ok(place) = self.find(registered.remote.token) {
            // A revoked token may have been drawn again for another region.
            if self
                .by_token
                .get(place)
                .is_some_and(|(_, number)| *number == id.0)
            {
                self.by_token.remove(place);
            }
        }
        Ok(())
    }

    /// Checks that `sge` lies in a registered region.
    #[inline]
    pub(crate) fn check(&self, sge: Sge) -> Result<Piece, FabricError> {
        let slot = self
            .slots
            .get(sge.region.0 as usize)
            .ok_or(FabricError::LocalProtection)?;
        let registered = slot
            .registered
            .as_ref()
            .ok_or(FabricError::LocalProtection)?;
        let end = u64::from(sge.offset) + u64::from(sge.length);
        if end > registered.memory.len() as u64 {
            return Err(FabricError::LocalProtection);
        }
        Ok(Piece {
            sge,
            generation: slot.generation,
        })
    }

    /// The memory of a checked piece and where it begins there; `None`: deregistered since.
    #[inline]
    pub(crate) fn local(&self, piece: Piece) -> Option<(&Memory, usize)> {
        let slot = self.slots.get(piece.sge.region.0 as usize)?;
        let registered = slot.registered.as_ref()?;
        (slot.generation == piece.generation)
            .then_some((&registered.memory, piece.sge.offset as usize))
    }

    /// The memory that the peer means and where it begins there, if it may be accessed so.
    #[inline]
    pub(crate) fn remote(
        &self,
        target: RemoteAddress,
        length: u32,
        access: Access,
    ) -> Result<(&Memory, usize), AccessFault> {
        let place = self.find(target.token).map_err(|_| AccessFault::Token)?;
        let (_, number) = self.by_token.get(place).ok_or(AccessFault::Token)?;
        let slot = self.slots.get(*number as usize).ok_or(AccessFault::Token)?;
        let registered = slot.registered.as_ref().ok_or(AccessFault::Token)?;
        if registered.access != access || !access.is_remote() {
            return Err(AccessFault::Access);
        }
        let offset = target
            .address
            .checked_sub(registered.remote.address)
            .ok_or(AccessFault::Bounds)?;
        let end = offset
            .checked_add(u64::from(length))
            .ok_or(AccessFault::Bounds)?;
        if end > registered.memory.len() as u64 {
            return Err(AccessFault::Bounds);
        }
        let offset = usize::try_from(offset).map_err(|_| AccessFault::Bounds)?;
        Ok((&registered.memory, offset))
    }

    /// Ends the peer's access by `token`; the region stays for local work. Whether there was one.
    pub(crate) fn revoke(&mut self, token: RemoteToken) -> bool {
        match self.find(token) {
            Ok(place) => {
                self.by_token.remove(place);
                true
            }
            Err(_) => false,
        }
    }

    #[inline]
    fn find(&self, token: RemoteToken) -> Result<usize, usize> {
        self.by_token
            .binary_search_by_key(&token, |(token, _)| *token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(regions: &mut Regions, length: usize, access: Access) -> Region {
        regions
            .register(&Memory::zeroed(length), access, &mut Tokens::new().unwrap())
            .unwrap()
    }

    fn at(region: Region, offset: u64) -> RemoteAddress {
        RemoteAddress {
            token: region.remote.token,
            address: region.remote.address.wrapping_add(offset),
        }
    }

    #[test]
    fn finds_many_regions_by_token() {
        let mut regions = Regions::new(1000);
        let all: Vec<Region> = (1..=1000)
            .map(|n| region(&mut regions, n, Access::RemoteRead))
            .collect();
        for (region, length) in all.iter().zip(1..) {
            assert_eq!(
                regions
                    .remote(region.remote, length, Access::RemoteRead)
                    .unwrap()
                    .0
                    .len() as u32,
                length
            );
            assert!(
                regions
                    .remote(region.remote, length + 1, Access::RemoteRead)
                    .is_err()
            );
        }
        let error = regions.register(
            &Memory::zeroed(1),
            Access::Local,
            &mut Tokens::new().unwrap(),
        );
        assert!(matches!(error, Err(FabricError::TooManyRegions)));
    }

    #[test]
    fn refuses_what_the_peer_may_not_do_and_says_why() {
        let mut regions = Regions::new(4);
        let r = region(&mut regions, 100, Access::RemoteWrite);
        let local = region(&mut regions, 100, Access::Local);
        let ask = |target, length, access| regions.remote(target, length, access).err();
        assert_eq!(ask(at(r, 0), 100, Access::RemoteWrite), None);
        assert_eq!(ask(at(r, 100), 0, Access::RemoteWrite), None);
        assert_eq!(
            ask(at(r, 0), 1, Access::RemoteRead),
            Some(AccessFault::Access)
        );
        assert_eq!(
            ask(at(r, 1), 100, Access::RemoteWrite),
            Some(AccessFault::Bounds)
        );
        assert_eq!(
            ask(at(r, u64::MAX), 1, Access::RemoteWrite),
            Some(AccessFault::Bounds)
        );
        let target = RemoteAddress {
            address: u64::MAX,
            ..r.remote
        };
        assert_eq!(
            ask(target, u32::MAX, Access::RemoteWrite),
            Some(AccessFault::Bounds)
        );
        assert_eq!(
            ask(local.remote, 1, Access::RemoteWrite),
            Some(AccessFault::Token)
        );
        assert!(regions.revoke(r.remote.token));
        assert!(!regions.revoke(r.remote.token));
        assert_eq!(
            regions.remote(at(r, 0), 1, Access::RemoteWrite).err(),
            Some(AccessFault::Token)
        );
        assert!(
            regions
                .check(Sge {
                    region: r.id,
                    offset: 0,
                    length: 100
                })
                .is_ok()
        );
    }

    #[test]
    fn forgets_a_piece_whose_region_number_has_a_new_owner() {
        let mut regions = Regions::new(4);
        let old = region(&mut regions, 10, Access::Local);
        let piece = regions
            .check(Sge {
                region: old.id,
                offset: 5,
                length: 5,
            })
            .unwrap();
        assert_eq!(regions.local(piece).unwrap().1, 5);
        regions.deregister(old.id).unwrap();
        assert!(regions.deregister(old.id).is_err());
        let new = region(&mut regions, 10, Access::Local);
        assert_eq!(new.id, old.id);
        assert!(regions.local(piece).is_none());
    }
}
