// SPDX-License-Identifier: GPL-2.0-or-later

//! Calls with every field at its edges, and with anything.
//!
//! Each call has a form that the device carries out in the right role. [`edges`] replaces one word of it at a time, in
//! each role; [`play`] replaces any number of words, in any order of calls, from two threads.

use std::mem::offset_of;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use smbdirect::device::Status;
use smbdirect::device::abi::{self, region, role};
use smbdirect::device::uapi::{
    ALL_QUEUES, AttachCall, Call, ClaimCall, DeclineCall, EnterCall, FOREVER, GetEventsCall,
    GrowCall, MAP_QUEUE, SetAddressesCall, SetParametersCall, SetSessionIdCall, StatusCall,
    SubmitCall, answer, enter, number,
};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::file::{File, Mapping, PAGE, words};
use crate::tally::{Tally, fail};

/// Bytes that a call may read and write, followed by a page that may only be read and one that does not exist.
const ROOM: usize = 17 * PAGE;

/// A call in the form that the device carries out.
struct Form {
    name: &'static str,
    command: u32,
    words: Vec<u64>,
    /// Offset of the status in the argument, if the call has one.
    status: Option<usize>,
    /// Offset and length of fields that must be 0.
    reserved: &'static [(usize, usize)],
}

fn form<C: Call + Immutable + IntoBytes>(
    name: &'static str,
    call: C,
    status: Option<usize>,
    reserved: &'static [(usize, usize)],
) -> Form {
    Form {
        name,
        command: C::NUMBER,
        words: words(&call),
        status,
        reserved,
    }
}

/// Returns all calls. Those that carry an address get one in `memory`.
fn forms(memory: &Mapping, role: u32) -> Vec<Form> {
    let address = memory.address() as u64;
    let room = ROOM as u32 - PAGE as u32;
    macro_rules! at {
        ($call:ty, $field:ident) => {
            Some(offset_of!($call, $field))
        };
    }
    vec![
        form(
            "attach",
            AttachCall {
                attach: abi::Attach::new(role, [0; 16]),
                ..AttachCall::new_zeroed()
            },
            at!(AttachCall, status),
            &[(offset_of!(abi::Attach, reserved), 4)],
        ),
        form(
            "set_parameters",
            SetParametersCall {
                parameters: abi::SetParameters {
                    receive_credit_max: 255,
                    send_credit_target: 255,
                    max_send_size: 1364,
                    max_receive_size: 8192,
                    max_fragmented_size: 1 << 20,
                    max_read_write_size: 1 << 20,
                    keepalive_interval_ms: 120_000,
                    security_blob_length: 64,
                    ..abi::SetParameters::new_zeroed()
                },
                security_blob: address,
                ..SetParametersCall::new_zeroed()
            },
            at!(SetParametersCall, status),
            &[
                (offset_of!(abi::SetParameters, reserved), 20),
                (offset_of!(SetParametersCall, reserved), 4),
            ],
        ),
        form(
            "set_addresses",
            SetAddressesCall {
                set: abi::SetAddresses { count: 0, all: 1 },
                addresses: address,
                ..SetAddressesCall::new_zeroed()
            },
            at!(SetAddressesCall, status),
            &[(offset_of!(SetAddressesCall, reserved), 4)],
        ),
        form(
            "set_session_id",
            SetSessionIdCall {
                session: abi::SetSessionId {
                    session_id: 1,
                    client_guid: [1; 16],
                    remove: 0,
                    reserved: 0,
                },
                ..SetSessionIdCall::new_zeroed()
            },
            at!(SetSessionIdCall, status),
            &[
                (offset_of!(abi::SetSessionId, reserved), 4),
                (offset_of!(SetSessionIdCall, reserved), 4),
            ],
        ),
        form(
            "claim",
            ClaimCall {
                cookie: 1,
                ..ClaimCall::new_zeroed()
            },
            at!(ClaimCall, status),
            &[(offset_of!(ClaimCall, reserved), 4)],
        ),
        form(
            "decline",
            DeclineCall::new_zeroed(),
            at!(DeclineCall, status),
            &[(offset_of!(DeclineCall, reserved), 4)],
        ),
        form("get_mem_params", abi::MemParams::new_zeroed(), None, &[]),
        form(
            "grow",
            GrowCall {
                cookie: 1,
                grow: abi::Grow {
                    region: region::SEND,
                    units: 1,
                },
                ..GrowCall::new_zeroed()
            },
            at!(GrowCall, status),
            &[(offset_of!(GrowCall, reserved), 4)],
        ),
        form(
            "release",
            abi::Release {
                region: region::SEND,
                ..abi::Release::new_zeroed()
            },
            None,
            &[(offset_of!(abi::Release, reserved), 4)],
        ),
        form(
            "get_events",
            GetEventsCall {
                buffer: address,
                length: room,
                ..GetEventsCall::new_zeroed()
            },
            None,
            &[(offset_of!(GetEventsCall, reserved), 4)],
        ),
        form(
            "submit",
            SubmitCall::new_zeroed(),
            None,
            &[(offset_of!(SubmitCall, reserved), 4)],
        ),
        form(
            "enter",
            EnterCall {
                queue: ALL_QUEUES,
                flags: enter::LOOK,
                ..EnterCall::new_zeroed()
            },
            None,
            &[(offset_of!(EnterCall, reserved), 4)],
        ),
        form(
            "status",
            StatusCall {
                buffer: address,
                length: room,
                ..StatusCall::new_zeroed()
            },
            None,
            &[(offset_of!(StatusCall, reserved), 4)],
        ),
    ]
}

/// Values at which 32 bits are likely to be mishandled.
const EDGES: [u32; 16] = [
    0,
    1,
    2,
    3,
    4,
    5,
    255,
    256,
    4095,
    4096,
    65_536,
    1 << 20,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
];

/// Memory for the arguments, and addresses around it.
struct Scratch {
    memory: Mapping,
    addresses: Vec<u64>,
}

impl Scratch {
    fn new() -> Self {
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let new = |length| Mapping::new(None, length, (both, libc::MAP_PRIVATE), 0);
        let memory = new(ROOM + 2 * PAGE).expect("memory");
        assert!(memory.protect(ROOM, PAGE, libc::PROT_READ));
        assert!(memory.protect(ROOM + PAGE, PAGE, libc::PROT_NONE));
        let start = memory.address();
        let inside = [
            0,
            1,
            4,
            PAGE - 8,
            ROOM - 8,
            ROOM - 1,
            ROOM,
            ROOM + PAGE - 8,
            ROOM + PAGE - 1,
            ROOM + PAGE,
        ];
        let mut addresses: Vec<u64> = inside.iter().map(|at| (start + at) as u64).collect();
        addresses.extend([
            0,
            1,
            4095,
            0x7fff_ffff_f000 - 8,
            0x7fff_ffff_f000,
            0x8000_0000_0000,
            0x8000_0000_0000_0000,
            0xffff_8880_0000_0000,
            0xffff_ffff_8100_0000,
            u64::MAX - 7,
            u64::MAX,
        ]);
        Self { memory, addresses }
    }
}

/// Returns an open file that is attached in this role; 0 means not at all.
fn attached(device: &Path, tally: &Tally, role: u32) -> File {
    let file = File::open(device, tally, true);
    if role != 0 {
        let status = file.attach(tally, role, [0; 16]);
        if status != Status::Ok.code() {
            fail(&format!("attaching in role {role}: {status}"));
        }
    }
    file
}

/// Closes a file, and returns another one in this role: there is only one listener at a time.
fn again(file: File, device: &Path, tally: &Tally, role: u32) -> File {
    drop(file);
    attached(device, tally, role)
}

/// Makes a call, and checks its answer.
fn carry_out(file: &File, tally: &Tally, form: &Form, argument: &mut [u64]) -> Result<(), i32> {
    let before = argument.to_vec();
    let result = file.call(tally, form.name, (form.command, argument));
    if result.is_ok() {
        let zeros = |(at, length): &(usize, usize)| before.as_bytes()[*at..at + length].iter();
        if form.reserved.iter().flat_map(zeros).any(|byte| *byte != 0) {
            fail(&format!("{} takes reserved fields: {before:x?}", form.name));
        }
        let status = form
            .status
            .map(|at| argument.as_bytes()[at..at + 4].to_vec());
        let status = status.map(|bytes| i32::from_le_bytes(bytes.try_into().expect("four")));
        if let Some(status) = status.filter(|status| *status != answer::LATER) {
            let Some(status) = Status::from_code(status) else {
                fail(&format!("{} answers with status {status}", form.name));
            };
            tally.count(form.name, status.name());
        }
    }
    result
}

/// Makes each call with each word at each of its edges, and with its argument at each address, in each role.
pub(crate) fn edges(device: &Path, tally: &Tally) {
    let scratch = Scratch::new();
    for role in [0, role::OBSERVER, role::LISTENER, role::WORKER] {
        for form in forms(&scratch.memory, role::OBSERVER) {
            let mut file = attached(device, tally, role);
            let is_read = form.command >> 30 & 1 != 0;
            // Most of the argument of ATTACH is for the answer.
            let words = if is_read { form.words.len().min(10) } else { 0 };
            for word in (0..words).filter(|word| !is_wait(&form, *word)) {
                let value = form.words[word];
                let low = EDGES.map(|edge| value & !0xffff_ffff | u64::from(edge));
                let high = EDGES.map(|edge| value & 0xffff_ffff | u64::from(edge) << 32);
                for value in low.into_iter().chain(high).chain(scratch.addresses.clone()) {
                    let mut argument = form.words.clone();
                    argument[word] = value;
                    let result = carry_out(&file, tally, &form, &mut argument);
                    // It may be attached now, or no longer.
                    if form.command == number::RELEASE || result.is_ok() == (role == 0) {
                        file = again(file, device, tally, role);
                    }
                }
            }
            for address in &scratch.addresses {
                at_address(&file, tally, form.command, *address);
                if role == 0 || form.command == number::RELEASE {
                    file = again(file, device, tally, role);
                }
            }
        }
    }
}

/// Returns whether this word says how long the call waits.
fn is_wait(form: &Form, word: usize) -> bool {
    form.command == number::ENTER && word == offset_of!(EnterCall, wait_ns) / 8
}

/// Makes a call whose argument is at an address of [`Scratch`], which may not exist.
fn at_address(file: &File, tally: &Tally, command: u32, address: u64) {
    let result = tally.timed("at any address", || file.raw(command, address as usize));
    tally.count(
        "at any address",
        result.map_or_else(crate::file::name, |()| "ok".to_owned()),
    );
    if result == Err(libc::EIO) {
        fail(&format!(
            "{command:#x} at {address:#x}: the device has failed"
        ));
    }
}

/// Opens files, and makes any calls on each from two threads, until it is time to end.
pub(crate) fn play(device: &Path, tally: &Arc<Tally>, mut rng: Rng, end: Instant) {
    interrupted_by_signals();
    while Instant::now() < end {
        let file = File::open(device, tally, rng.u8(..8) > 0);
        let roles = [
            role::WORKER,
            role::WORKER,
            role::WORKER,
            role::OBSERVER,
            role::OBSERVER,
            0,
        ];
        let role = match rng.u8(..20) {
            0 => role::LISTENER,
            _ => *rng.choice(&roles).expect("there are some"),
        };
        if role != 0 {
            let _ = file.attach(tally, role, [0; 16]);
        }
        let count = rng.u32(1..150);
        let mut other = rng.fork();
        std::thread::scope(|scope| {
            scope.spawn(|| hammer(&file, tally, &mut other, (role, count)));
            hammer(&file, tally, &mut rng, (role, count));
        });
        if rng.bool() {
            wait_forever(&file, tally, &mut rng);
        }
    }
}

/// Makes `count` calls of any kind.
fn hammer(file: &File, tally: &Tally, rng: &mut Rng, (role, count): (u32, u32)) {
    let scratch = Scratch::new();
    let forms = forms(&scratch.memory, role);
    let mut mappings = Vec::new();
    for _ in 0..count {
        match rng.u8(..100) {
            0..70 => {
                let form = &forms[rng.usize(..forms.len())];
                let mut argument = form.words.clone();
                for _ in 0..rng.usize(..4) {
                    replace(rng, &scratch, &mut argument);
                }
                if form.command == number::ENTER {
                    argument[offset_of!(EnterCall, wait_ns) / 8] = rng.u64(..2_000_000);
                }
                let _ = carry_out(file, tally, form, &mut argument);
            }
            70..82 => map(file, tally, rng, &mut mappings),
            82..86 => {
                let found = file.wait(tally, 1);
                tally.count("poll", if found { "ready" } else { "not ready" });
            }
            86..90 => close_meanwhile(file, tally, rng),
            90..93 => fork(file, tally, &forms[rng.usize(..forms.len())]),
            93..97 => {
                let address = scratch.addresses[rng.usize(..scratch.addresses.len())];
                let form = &forms[rng.usize(..forms.len())];
                // What was left at that address may say that ENTER waits.
                if form.command != number::ENTER {
                    at_address(file, tally, form.command, address);
                }
            }
            _ => {
                let command = match rng.bool() {
                    true => rng.u32(..),
                    // A call of the device with another length or direction.
                    false => rng.u32(..) & 0xffff_0000 | 0xd500 | rng.u32(..20),
                };
                if command != number::ENTER {
                    at_address(file, tally, command, scratch.memory.address() as u64);
                }
            }
        }
    }
}

/// Replaces a word by an edge, an address, or anything.
fn replace(rng: &mut Rng, scratch: &Scratch, argument: &mut [u64]) {
    let at = rng.usize(..argument.len());
    let edge = u64::from(EDGES[rng.usize(..EDGES.len())]);
    argument[at] = match rng.u8(..6) {
        0 | 1 => argument[at] & !0xffff_ffff | edge,
        2 => argument[at] & 0xffff_ffff | edge << 32,
        3 => scratch.addresses[rng.usize(..scratch.addresses.len())],
        4 => rng.u64(..),
        _ => edge << 32 | u64::from(EDGES[rng.usize(..EDGES.len())]),
    };
}

/// Maps anything, and uses it as far as it can be used.
fn map(file: &File, tally: &Tally, rng: &mut Rng, mappings: &mut Vec<Mapping>) {
    let offset = match rng.u8(..10) {
        0 => rng.u64(..) & !(PAGE as u64 - 1),
        1 => rng.u64(..1 << 48),
        _ => rng.u64(..=u64::from(MAP_QUEUE) + 1) << 40 | rng.u64(..3) << 32,
    };
    let lengths = [
        1,
        PAGE,
        PAGE + 1,
        2 * PAGE,
        1 << 20,
        (1 << 20) + 1,
        16 << 20,
        64 << 20,
        usize::MAX >> 18,
    ];
    let length = lengths[rng.usize(..lengths.len())];
    let (read, write) = (libc::PROT_READ, libc::PROT_WRITE);
    let protections = [
        read | write,
        read | write,
        read,
        write,
        0,
        read | libc::PROT_EXEC,
    ];
    let protection = protections[rng.usize(..protections.len())];
    let flags = match rng.u8(..8) {
        0 => libc::MAP_PRIVATE,
        1 => libc::MAP_SHARED | libc::MAP_POPULATE,
        _ => libc::MAP_SHARED,
    };
    let mapped = tally.timed("mmap", || {
        Mapping::new(Some(file), length, (protection, flags), offset)
    });
    let mapping = match mapped {
        Ok(mapping) => mapping,
        Err(error) => {
            return tally.count("mmap", crate::file::name(error.raw_os_error().unwrap_or(0)));
        }
    };
    tally.count("mmap", "ok");
    if flags == libc::MAP_PRIVATE || protection & libc::PROT_EXEC != 0 {
        fail("the device lets itself be mapped privately, or for execution");
    }
    if mapping.protect(0, PAGE.min(mapping.length()), read | libc::PROT_EXEC) {
        fail("memory of the device can be executed");
    }
    let last = mapping.length().next_multiple_of(PAGE) - 4;
    if mapping.length() % PAGE == 0 && mapping.protect(0, mapping.length(), read | write) {
        for at in [0, last / 2 & !3, last] {
            mapping.write(at, mapping.read(at) ^ rng.u32(..));
        }
    }
    let longer = mapping.length() + PAGE;
    let mapping = mapping.resize(longer);
    if mapping.length() == longer {
        fail("a mapping of the device can be made longer");
    }
    mappings.push(mapping);
    if mappings.len() > 3 {
        mappings.swap_remove(rng.usize(..mappings.len()));
    }
}

/// Closes a copy of the file while another thread makes a call with it.
fn close_meanwhile(file: &File, tally: &Tally, rng: &mut Rng) {
    let copy = file.duplicate();
    let fd = copy.number();
    let delay = rng.u64(..300);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_micros(delay));
            drop(copy);
        });
        // The number may belong to another file by then, but the wait is short.
        let mut call = EnterCall {
            wait_ns: 3_000_000,
            ..look()
        };
        let address = &raw mut call;
        // SAFETY: the kernel writes only to the structure.
        let result = tally.timed("enter, closed meanwhile", || unsafe {
            libc::ioctl(fd, number::ENTER.into(), address)
        });
        tally.count("enter, closed meanwhile", result.to_string());
    });
}

fn look() -> EnterCall {
    EnterCall {
        queue: ALL_QUEUES,
        flags: enter::LOOK,
        ..EnterCall::new_zeroed()
    }
}

/// Waits without a limit, until a signal or the end of the attachment ends the wait.
fn wait_forever(file: &File, tally: &Arc<Tally>, rng: &mut Rng) {
    use std::os::unix::thread::JoinHandleExt as _;
    let (copy, of_thread, has_ended) = (
        file.duplicate(),
        Arc::clone(tally),
        Arc::new(AtomicBool::new(false)),
    );
    let ended = Arc::clone(&has_ended);
    let thread = tally.spawn("wait", move || {
        let mut call = EnterCall {
            wait_ns: FOREVER,
            ..look()
        };
        let _ = copy.make(&of_thread, "enter without a limit", &mut call);
        // SYNC: pairs with the load below; nothing else is published.
        ended.store(true, Ordering::Release);
    });
    std::thread::sleep(Duration::from_micros(rng.u64(..2000)));
    if rng.bool() {
        let _ = tally.timed("detach", || file.raw(number::DETACH, 0));
    }
    // SYNC: pairs with the store above.
    while !has_ended.load(Ordering::Acquire) {
        // The signal may come before the call.
        // SAFETY: the thread has not been joined.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = thread.join();
}

/// Makes signals end calls, and nothing else.
fn interrupted_by_signals() {
    extern "C" fn ignore(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = ignore;
    // SAFETY: all zeros are a valid structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    // SAFETY: the handler does nothing.
    unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
}

/// Makes a call in a child, which then ends; the child's end must not detach its parent.
fn fork(file: &File, tally: &Tally, form: &Form) {
    let mut argument = form.words.clone();
    if form.command == number::ATTACH {
        return;
    }
    let (fd, address) = (file.number(), argument.as_mut_ptr());
    tally.timed("fork", || {
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            -1 => tally.count("fork", "no child"),
            0 => {
                // SAFETY: the argument is as long as the number of the call says.
                unsafe { libc::ioctl(fd, form.command.into(), address) };
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(0) };
            }
            child => {
                let mut status = 0;
                // SAFETY: `status` is a number.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                tally.count("fork", status.to_string());
            }
        }
    });
}
