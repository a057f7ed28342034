// SPDX-License-Identifier: GPL-2.0-or-later

//! A listener that gives the tokens of the connections to the workers, and often goes away.

use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;
use smbdirect::device::Status;
use smbdirect::device::abi::{self, kind, role};
use smbdirect::device::uapi::{DeclineCall, SetAddressesCall, SetParametersCall, number};
use zerocopy::{FromBytes, FromZeros};

use crate::Tokens;
use crate::file::File;
use crate::tally::{Tally, fail};
use crate::worker::Events;

/// Attaches again and again until it is time to end.
pub(crate) fn play(device: &Path, tally: &Tally, mut rng: Rng, (tokens, end): (&Tokens, Instant)) {
    while Instant::now() < end {
        let file = File::open(device, tally, true);
        let status = file.attach(tally, role::LISTENER, [0; 16]);
        if status != Status::Ok.code() {
            // Another thread plays the listener for a moment.
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        prepare(&file, tally);
        serve(&file, tally, &mut rng, (tokens, end));
        if rng.bool() {
            let _ = file.raw(number::DETACH, 0);
        }
    }
}

/// Undoes what earlier listeners have set.
fn prepare(file: &File, tally: &Tally) {
    let mut addresses = SetAddressesCall::new_zeroed();
    addresses.set.all = 1;
    let set = file.make(tally, "set_addresses", &mut addresses);
    let mut parameters = SetParametersCall::new_zeroed();
    let set = set.and_then(|()| file.make(tally, "set_parameters", &mut parameters));
    let statuses = [addresses.status, parameters.status];
    if tally.faults {
        return;
    }
    if set != Ok(()) || statuses != [Status::Ok.code(); 2] {
        fail(&format!(
            "the device refuses its own values: {set:?}, {statuses:?}"
        ));
    }
}

fn serve(file: &File, tally: &Tally, rng: &mut Rng, (tokens, end): (&Tokens, Instant)) {
    let mut events = Events::new();
    let stays = Duration::from_millis(rng.u64(100..8000));
    let end = end.min(Instant::now() + stays);
    while Instant::now() < end {
        if !file.wait(tally, 20) {
            continue;
        }
        let Some(messages) = events.read(file, tally) else {
            return;
        };
        for (_, _, body) in messages.iter().filter(|(kind, ..)| *kind == kind::OFFER) {
            let Ok(offer) = abi::Offer::read_from_bytes(body) else {
                fail(&format!("an offer of {} bytes", body.len()));
            };
            match rng.u8(..20) {
                0 => {
                    let mut call = DeclineCall::new_zeroed();
                    call.decline.token = offer.token;
                    let _ = file.make(tally, "decline", &mut call);
                }
                _ => {
                    let mut tokens = tokens.lock().expect("no thread fails");
                    tokens.insert(offer.info.client_guid, offer.token);
                }
            }
        }
    }
}
