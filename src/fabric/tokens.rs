// SPDX-License-Identifier: GPL-2.0-or-later

//! Registers memory under a random name, for fabrics that check remote access themselves.

use super::regions::Regions;
use super::wait::failed;
use super::{Access, FabricError, Region, RemoteAddress};
use crate::sys::Memory;
use crate::units::RemoteToken;

/// Maximum number of attempts to find a free random token.
const TRIES: usize = 8;

/// Registers `memory`. A peer that knows the token can reach the memory, so the token comes straight from the system,
/// and not from a generator whose state others could learn.
pub(super) fn register(
    regions: &mut Regions<Memory>,
    memory: &Memory,
    access: Access,
) -> Result<Region, FabricError> {
    let length = u32::try_from(memory.len()).map_err(|_| FabricError::LocalProtection)?;
    if !regions.has_room() {
        return Err(FabricError::TooManyRegions);
    }
    for _ in 0..TRIES {
        let remote = RemoteAddress {
            token: RemoteToken(random_u32()?),
            // The address is page-aligned, and far from the end of the address space.
            address: u64::from(random_u32()?) << 12,
        };
        if let Some(id) = regions.register(memory.clone(), length, access, remote) {
            return Ok(Region { id, remote });
        }
    }
    Err(FabricError::TooManyRegions)
}

fn random_u32() -> Result<u32, FabricError> {
    let what = "get random numbers for the tokens of memory regions";
    getrandom::u32().map_err(|error| failed(what, error.into()))
}
