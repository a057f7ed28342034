// SPDX-License-Identifier: GPL-2.0-or-later

//! The calls that processes make: reads, checks and answers the arguments of `ioctl`s.
//!
//! An argument is a private copy. What it points to in the process's memory is copied here, too, before any lock is
//! taken.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use smbdirect::device::Status;
use smbdirect::device::abi::{
    self, AllowedAddress, Attached, MAX_ALLOWED_ADDRESSES, MAX_CONTROL_LENGTH, MAX_SECURITY_BLOB,
};
use smbdirect::device::uapi::{
    ALL_QUEUES, AttachCall, Call, ClaimCall, DeclineCall, EnterCall, GetEventsCall, GrowCall,
    SetAddressesCall, SetParametersCall, SetSessionIdCall, StatusCall, answer, enter, number,
};
use smbdirect::engine::peer::Role;
use zerocopy::FromBytes;

use crate::device::Device;
use crate::ffi::{self, EACCES, EBADF, EBUSY, EINVAL, ENOTTY, EOPNOTSUPP, ESHUTDOWN, Errno};
use crate::process::{Client, Process};

/// Maximum number of bytes of messages that one call returns.
const MOST_EVENTS: usize = 64 << 10;

/// Carries out a call; its answer replaces its argument.
pub(crate) fn call(
    device: &Device,
    client: &Client,
    command: u32,
    argument: &mut [u8],
    writable: bool,
) -> Result<(), Errno> {
    match command {
        number::ATTACH => with(argument, |call| attach(device, client, call, writable)),
        number::DETACH => Ok(device.detach(client)?),
        number::SET_PARAMETERS => with(argument, |call| set_parameters(device, client, call)),
        number::SET_ADDRESSES => with(argument, |call| set_addresses(device, client, call)),
        number::SET_SESSION_ID => with(argument, |call: &mut SetSessionIdCall| {
            let process = process(client, &[Role::Worker])?;
            call.status = code(device.set_session_id(&process, &call.session));
            Ok(())
        }),
        number::CLAIM => with(argument, |call| claim(device, client, call)),
        number::DECLINE => with(argument, |call: &mut DeclineCall| {
            process(client, &[Role::Listener])?;
            call.status = code(device.decline(call.decline.token)?);
            Ok(())
        }),
        number::GET_MEM_PARAMS => with(argument, |call: &mut abi::MemParams| {
            process(client, &[Role::Listener, Role::Worker, Role::Observer])?;
            *call = device.config.memory;
            Ok(())
        }),
        number::GROW => with(argument, |call| grow(device, client, call)),
        number::RELEASE => with(argument, |call| release(device, client, call)),
        number::GET_EVENTS => with(argument, |call| get_events(device, client, call)),
        number::ENTER => with(argument, |call| enter_queues(device, client, call)),
        number::STATUS => with(argument, |call| status(device, client, call)),
        // Not implemented yet: the library uses rings.
        number::SUBMIT => Err(EOPNOTSUPP),
        _ => Err(ENOTTY),
    }
}

/// Reads the argument, and writes it back if the call was carried out.
fn with<C: Call>(
    argument: &mut [u8],
    carry_out: impl FnOnce(&mut C) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut call = C::read_from_bytes(argument).map_err(|_| ENOTTY)?;
    if !call.reserved_is_zero() {
        return Err(EINVAL);
    }
    carry_out(&mut call)?;
    argument.copy_from_slice(call.as_bytes());
    Ok(())
}

/// Returns the process of a file, if it is attached in one of these roles.
fn process(client: &Client, roles: &[Role]) -> Result<Arc<Process>, Errno> {
    let process = client.process().ok_or(EBADF)?;
    if !roles.iter().any(|role| process.is(*role)) {
        return Err(EBADF);
    }
    match process.is_over() {
        true => Err(ESHUTDOWN),
        false => Ok(process),
    }
}

fn code(result: Result<(), Status>) -> i32 {
    result.err().unwrap_or(Status::Ok).code()
}

fn attach(
    device: &Device,
    client: &Client,
    call: &mut AttachCall,
    writable: bool,
) -> Result<(), Errno> {
    let request = &call.attach;
    (call.status, call.version) = (Status::Ok.code(), 0);
    let Some(version) = abi::common_version(request.version, request.oldest_version) else {
        (call.status, call.version) = (Status::Version.code(), abi::VERSION);
        return Ok(());
    };
    let role = Role::of(request.role).ok_or(EINVAL)?;
    if request.token != abi::Token::default() && role != Role::Worker {
        return Err(EINVAL);
    }
    if role != Role::Observer && !writable {
        return Err(EACCES);
    }
    if client.process().is_some() {
        return Err(EBUSY);
    }
    let features = request.features & abi::FEATURES;
    match device.attach(client, role, request.token)? {
        Ok((worker, memory, submissions_outstanding)) => {
            call.attached = Attached {
                version,
                worker,
                memory,
                submissions_outstanding,
                max_read_write_size: device.max_read_write_size(),
                features,
                reserved: [0; 4],
            };
        }
        Err(status) => call.status = status.code(),
    }
    Ok(())
}

fn set_parameters(
    device: &Device,
    client: &Client,
    call: &mut SetParametersCall,
) -> Result<(), Errno> {
    process(client, &[Role::Listener])?;
    let length = usize::try_from(call.parameters.security_blob_length).map_err(|_| EINVAL)?;
    if length > MAX_SECURITY_BLOB {
        return Err(EINVAL);
    }
    // smbdirectd reads the blob, too, so a blob at a wrong address has to fail here as well.
    let mut blob = vec![0; length];
    ffi::copy_in(&mut blob, call.security_blob)?;
    call.status = code(device.set_parameters(&call.parameters)?);
    Ok(())
}

fn set_addresses(
    device: &Device,
    client: &Client,
    call: &mut SetAddressesCall,
) -> Result<(), Errno> {
    process(client, &[Role::Listener])?;
    let count = usize::try_from(call.set.count).map_err(|_| EINVAL)?;
    if count > MAX_ALLOWED_ADDRESSES {
        return Err(EINVAL);
    }
    let mut bytes = vec![0; count * size_of::<AllowedAddress>()];
    ffi::copy_in(&mut bytes, call.addresses)?;
    let list: Vec<AllowedAddress> = bytes
        .chunks_exact(size_of::<AllowedAddress>())
        .filter_map(|bytes| AllowedAddress::read_from_bytes(bytes).ok())
        .collect();
    if list.iter().any(|address| address.reserved != 0) {
        return Err(EINVAL);
    }
    call.status = code(device.set_addresses(client, call.set, &list)?);
    Ok(())
}

fn claim(device: &Device, client: &Client, call: &mut ClaimCall) -> Result<(), Errno> {
    let process = process(client, &[Role::Worker])?;
    if call.cookie == 0 {
        return Err(EINVAL);
    }
    call.status = match device.claim(client, &process, (call.claim.token, call.cookie))? {
        Ok(()) => answer::LATER,
        Err(status) => status.code(),
    };
    Ok(())
}

fn grow(device: &Device, client: &Client, call: &mut GrowCall) -> Result<(), Errno> {
    let process = process(client, &[Role::Worker])?;
    if call.cookie == 0 {
        return Err(EINVAL);
    }
    let grown = device.grow(&process, call.grow);
    call.status = code(grown.map(|segment| call.segment = segment));
    Ok(())
}

fn release(device: &Device, client: &Client, call: &mut abi::Release) -> Result<(), Errno> {
    let process = process(client, &[Role::Worker])?;
    if !device.release(client, call)? {
        let why = "it gave back a segment that it does not have";
        device.refuse(&process, Status::Corrupt, &why)?;
    }
    Ok(())
}

fn get_events(device: &Device, client: &Client, call: &mut GetEventsCall) -> Result<(), Errno> {
    let process = process(client, &[Role::Listener, Role::Worker, Role::Observer])?;
    let room = usize::try_from(call.length).map_err(|_| EINVAL)?;
    if room < MAX_CONTROL_LENGTH {
        return Err(EINVAL);
    }
    let (bytes, count) = process.read(room.min(MOST_EVENTS));
    if let Err(errno) = ffi::copy_out(call.buffer, &bytes) {
        // The messages are lost, and the process cannot know what they were.
        device.refuse(
            &process,
            Status::Corrupt,
            &"its buffer for events cannot be written",
        )?;
        return Err(errno);
    }
    (call.filled, call.count) = (bytes.len() as u32, count);
    Ok(())
}

fn status(device: &Device, client: &Client, call: &mut StatusCall) -> Result<(), Errno> {
    process(client, &[Role::Observer])?;
    let records = device.status(client)?;
    // The conversion never fails: everything that is listed has a limit.
    let needed = u32::try_from(records.len()).map_err(|_| EINVAL)?;
    (call.filled, call.needed) = (0, needed);
    if needed <= call.length {
        ffi::copy_out(call.buffer, &records)?;
        call.filled = needed;
    }
    Ok(())
}

fn enter_queues(device: &Device, client: &Client, call: &mut EnterCall) -> Result<(), Errno> {
    let process = process(client, &[Role::Listener, Role::Worker, Role::Observer])?;
    if call.flags & !enter::LOOK != 0 {
        return Err(EINVAL);
    }
    if process.is(Role::Worker) {
        if call.queue != ALL_QUEUES && call.queue >= ffi::QUEUES {
            return Err(EINVAL);
        }
        device.enter(client)?;
    } else if call.queue != ALL_QUEUES {
        return Err(EBADF);
    }
    Ok(())
}
