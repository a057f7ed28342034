// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that `kernel/uapi/smbdirect.h` is `src/device/{abi,uapi}` in C.
//!
//! cbindgen writes the structures. It cannot write the constants, because constants of different modules have the same
//! names. So the constants are read from the sources here, each with its comment, and get the module's name as a
//! prefix. A C program then compares everything with what Rust compiled.
//!
//! `UPDATE=1 cargo test -p instruments --test header` rewrites the header.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use smbdirect::device::uapi::{self, Call, map_offset, number, status};
use smbdirect::device::{Status, abi};

use instruments::ROOT;
use instruments::c::{compile, directory};

/// The sources, and the prefixes of the names of their structures.
const SOURCES: [(&str, &str); 3] = [
    ("src/device/abi.rs", "smbdirect_"),
    ("src/device/uapi.rs", "smbdirect_"),
    ("src/device/uapi/status.rs", "smbdirect_status_"),
];

/// Types that the sources define for an array of bytes: their C type and length.
const ARRAYS: [(&str, &str, usize); 3] = [
    ("Token", "__u8", size_of::<abi::Token>()),
    ("Name", "char", size_of::<status::Name>()),
    ("LongName", "char", size_of::<status::LongName>()),
];

const HEAD: &str = "\
/* SPDX-License-Identifier: GPL-2.0-or-later WITH Linux-syscall-note */
/*
 * /dev/smbdirect: SMB Direct ([MS-SMBD], SMB 3 over RDMA) for SMB servers.
 *
 * Generated from src/device/abi.rs, src/device/uapi.rs and src/device/uapi/status.rs by
 * instruments/tests/header: edit it there. Those files also say how the calls go together.
 * Programs use libsmbdirect instead, whose header is include/smbdirect.h; a source file
 * includes one of the two. src/shm/layout.rs describes the rings in the memory of a queue.
 */
#ifndef _UAPI_SMBDIRECT_H
#define _UAPI_SMBDIRECT_H

#include <linux/ioctl.h>
#include <linux/types.h>
";

const TAIL: &str = "
/* Where mmap finds a segment of SMBDIRECT_REGION_*, or a queue (SMBDIRECT_MAP_QUEUE). */
#define SMBDIRECT_MAP_OFFSET(region, number) ((__u64)(region) << 40 | (__u64)(number) << 32)

#endif
";

fn path() -> PathBuf {
    Path::new(ROOT).join("kernel/uapi/smbdirect.h")
}

fn source(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(name)).expect(name)
}

/// Converts `SetParametersCall` to `set_parameters_call`.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// Returns the names of the structures in a source.
fn structures(source: &str) -> Vec<&str> {
    let lines = source.lines();
    let names = lines.filter_map(|line| line.strip_prefix("pub struct ")?.strip_suffix(" {"));
    // Leave out `Place`: only its two parts, which form a number, are passed.
    names.filter(|name| *name != "Place").collect()
}

/// Returns the structures of one source as cbindgen writes them, with the kernel's types.
fn generated_structures((name, prefix): (&str, &str)) -> String {
    let config = Path::new(ROOT).join("kernel/uapi/cbindgen.toml");
    let mut config = cbindgen::Config::from_file(config).expect("kernel/uapi/cbindgen.toml");
    let text = source(name);
    let own = structures(&text);
    config.export.include = own.iter().map(|&name| name.to_owned()).collect();
    let rename = &mut config.export.rename;
    // If two sources have a structure of the same name, this source uses its own.
    for (other, its_prefix) in SOURCES {
        for structure in structures(&source(other)) {
            rename.insert(
                structure.to_owned(),
                format!("{its_prefix}{}", snake(structure)),
            );
        }
    }
    for structure in own {
        rename.insert(
            structure.to_owned(),
            format!("{prefix}{}", snake(structure)),
        );
    }
    let mut text = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(Path::new(ROOT).join(name))
        .generate()
        .expect(name)
        .write(&mut text);
    let text = String::from_utf8(text).expect("UTF-8");
    text.lines().map(|line| in_c(line) + "\n").collect()
}

/// Converts a line of cbindgen's to the kernel's types, and lets comments use the names in C.
fn in_c(line: &str) -> String {
    let indented = line.replace("  ", "\t");
    if let Some((indent, comment)) = indented.split_once("//") {
        return format!("{indent}/* {} */", comment_in_c(comment.trim()));
    }
    let mut line = indented;
    for (name, c, length) in ARRAYS {
        // This finds `Token token;`.
        let alias = format!("\t{name} ");
        if line.starts_with(&alias) {
            let field = line[alias.len()..].trim_end_matches(';');
            line = format!("\t{c} {field}[{length}];");
        }
    }
    // This is a structure of another source, which cbindgen has not seen.
    if let Some(field) = line.strip_prefix("\tsmbdirect_") {
        line = format!("\tstruct smbdirect_{field}");
    }
    for (rust, c) in [
        ("uint8_t ", "__u8 "),
        ("uint16_t ", "__u16 "),
        ("uint32_t ", "__u32 "),
        ("uint64_t ", "__u64 "),
        ("int32_t ", "__s32 "),
    ] {
        if let Some(rest) = line
            .strip_prefix('\t')
            .and_then(|line| line.strip_prefix(rust))
        {
            line = format!("\t{c}{rest}");
        }
    }
    line
}

/// Removes the links from a comment, and writes `region::SEND` as `SMBDIRECT_REGION_SEND`.
fn comment_in_c(comment: &str) -> String {
    let mut text = String::new();
    let mut rest = comment;
    while let Some((before, link)) = rest.split_once('[') {
        text.push_str(before);
        let (name, after) = link.split_once(']').unwrap_or((link, ""));
        if name.starts_with('`') {
            text.push_str(name);
            rest = after
                .split_once(')')
                .filter(|_| after.starts_with('('))
                .map_or(after, |(_, after)| after);
        } else {
            // This is not a link, but text such as `[MS-SMBD]`.
            write!(text, "[{name}]").unwrap();
            rest = after;
        }
    }
    text.push_str(rest);
    let words = text.split('`').enumerate().map(|(n, part)| match n % 2 {
        1 => word_in_c(part),
        _ => part.to_owned(),
    });
    words.collect()
}

/// Converts the text between backquotes.
fn word_in_c(word: &str) -> String {
    let path = word
        .trim_start_matches("abi::")
        .trim_start_matches("super::");
    match path.split_once("::") {
        Some((module, name)) if module.chars().all(|c| c.is_ascii_lowercase() || c == '_') => {
            format!("SMBDIRECT_{}_{name}", module.to_uppercase())
        }
        Some((structure, field)) => format!("{}.{field}", snake(structure)),
        None if path.starts_with(|c: char| c.is_ascii_uppercase())
            && path.contains(|c: char| c.is_ascii_lowercase()) =>
        {
            snake(path)
        }
        None => path.to_owned(),
    }
}

/// Returns the constants of one source: those at its top, and those in its modules.
fn generated_constants(name: &str, skipped: &[&str]) -> String {
    let text = source(name);
    let text = text.split("\n#[cfg(test)]").next().expect("code");
    let mut out = String::new();
    let mut module = String::new();
    let mut comment: Vec<String> = Vec::new();
    for line in text.lines() {
        let code = line.trim_start();
        if let Some(words) = code.strip_prefix("/// ") {
            comment.push(comment_in_c(words));
            continue;
        }
        if let Some(name) = code
            .strip_prefix("pub mod ")
            .and_then(|rest| rest.strip_suffix(" {"))
        {
            module = format!("{}_", name.to_uppercase());
            if name != "number" {
                writeln!(out, "\n/* {} */", comment.join(" ")).unwrap();
            } else {
                writeln!(out).unwrap();
            }
        } else if line == "}" {
            module.clear();
        } else if let Some(constant) = code
            .strip_prefix("pub const ")
            .filter(|code| !code.starts_with("fn "))
        {
            let (name, value) = constant.split_once(": ").expect(line);
            let (_, value) = value.split_once(" = ").expect(line);
            let value = value.trim_end_matches(';');
            if !skipped.contains(&name) {
                if module.is_empty() {
                    writeln!(out).unwrap();
                }
                wrapped(&comment.join(" "), &mut out);
                writeln!(out, "#define {}", definition(&module, name, value)).unwrap();
            }
        }
        comment.clear();
    }
    out
}

/// Writes a comment in lines of at most 100 columns.
fn wrapped(comment: &str, out: &mut String) {
    if comment.len() <= 94 {
        return writeln!(out, "/* {comment} */").unwrap();
    }
    out.push_str("/*");
    let mut column = 200;
    for word in comment.split_whitespace() {
        if column + word.len() + 1 > 98 {
            out.push_str("\n *");
            column = 2;
        }
        write!(out, " {word}").unwrap();
        column += word.len() + 1;
    }
    out.push_str("\n */\n");
}

/// Returns the text after `#define`.
fn definition(module: &str, name: &str, value: &str) -> String {
    if let Some(call) = value.strip_prefix("call(") {
        let parts: Vec<&str> = call.trim_end_matches(')').split(", ").collect();
        let number = parts[1];
        let argument = parts[2].split("::<").nth(1).map(|path| {
            let path = path.trim_end_matches(">(").trim_end_matches('>');
            snake(path.rsplit("::").next().expect("a name"))
        });
        let of = |c: &str| {
            let argument = argument.as_ref().expect("an argument");
            format!("SMBDIRECT_{name} {c}(SMBDIRECT_MAGIC, {number}, struct smbdirect_{argument})")
        };
        return match parts[0] {
            "NONE" => format!("SMBDIRECT_{name} _IO(SMBDIRECT_MAGIC, {number})"),
            "READ" => of("_IOR"),
            "WRITE" => of("_IOW"),
            "BOTH" => of("_IOWR"),
            other => panic!("{other}"),
        };
    }
    let value = match value {
        "u32::MAX" => "0xffffffffU".to_owned(),
        "u64::MAX" => "0xffffffffffffffffULL".to_owned(),
        "1 << 31" => "(1U << 31)".to_owned(),
        value if value.starts_with('-') => format!("({value})"),
        // The value is another constant.
        value if value.contains("::") => word_in_c(value),
        value => value.to_owned(),
    };
    format!("SMBDIRECT_{module}{name} {value}")
}

/// Returns the statuses, as the library's header names them.
fn generated_statuses() -> String {
    let mut out = String::from("\n/* How something ended. */\n#define SMBDIRECT_OK 0\n");
    for status in (1..).map_while(Status::from_code) {
        wrapped(&format!("{status}."), &mut out);
        let name = status.name().to_uppercase();
        writeln!(out, "#define SMBDIRECT_E_{name} {}", status.code()).unwrap();
    }
    out
}

fn generated() -> String {
    let [abi, uapi, status] = SOURCES;
    let parts = [
        HEAD.to_owned(),
        generated_constants(abi.0, &[]),
        generated_statuses(),
        generated_structures(abi),
        generated_structures(uapi),
        generated_constants(uapi.0, &[]),
        generated_structures(status),
        generated_constants(status.0, &[]),
        TAIL.to_owned(),
    ];
    let mut text = parts.concat();
    // One empty line is enough.
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    text
}

#[test]
fn the_header_is_what_the_sources_say() {
    let generated = generated();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path(), &generated).expect("kernel/uapi is writable");
    }
    let checked_in = fs::read_to_string(path()).unwrap_or_default();
    for (n, (is, should)) in checked_in.lines().zip(generated.lines()).enumerate() {
        let hint = "UPDATE=1 cargo test -p instruments --test header";
        assert_eq!(
            is,
            should,
            "kernel/uapi/smbdirect.h, line {}: {hint}",
            n + 1
        );
    }
    assert_eq!(
        checked_in.len(),
        generated.len(),
        "kernel/uapi/smbdirect.h is shorter or longer than the generated header: \
         UPDATE=1 cargo test -p instruments --test header"
    );
}

#[test]
fn the_numbers_and_layouts_are_those_that_the_compiler_makes_of_the_header() {
    let mut text = String::from(
        "#include <stddef.h>\n#include \"smbdirect.h\"\n#include \"smbdirect.h\"\n\
         #define IS(a, b) _Static_assert((a) == (b), #a)\n",
    );
    macro_rules! same {
        ($($c:literal = $rust:expr;)*) => {
            $(writeln!(text, "IS({}, {});", $c, $rust).unwrap();)*
        };
    }
    // `<linux/ioctl.h>` makes the numbers on the left.
    same! {
        "SMBDIRECT_ATTACH" = format!("{}U", number::ATTACH);
        "SMBDIRECT_DETACH" = format!("{}U", number::DETACH);
        "SMBDIRECT_SET_PARAMETERS" = format!("{}U", number::SET_PARAMETERS);
        "SMBDIRECT_SET_ADDRESSES" = format!("{}U", number::SET_ADDRESSES);
        "SMBDIRECT_SET_SESSION_ID" = format!("{}U", number::SET_SESSION_ID);
        "SMBDIRECT_CLAIM" = format!("{}U", number::CLAIM);
        "SMBDIRECT_DECLINE" = format!("{}U", number::DECLINE);
        "SMBDIRECT_GET_MEM_PARAMS" = format!("{}U", number::GET_MEM_PARAMS);
        "SMBDIRECT_GROW" = format!("{}U", number::GROW);
        "SMBDIRECT_RELEASE" = format!("{}U", number::RELEASE);
        "SMBDIRECT_GET_EVENTS" = format!("{}U", number::GET_EVENTS);
        "SMBDIRECT_SUBMIT" = format!("{}U", number::SUBMIT);
        "SMBDIRECT_ENTER" = format!("{}U", number::ENTER);
        "SMBDIRECT_STATUS" = format!("{}U", number::STATUS);
        "SMBDIRECT_MAGIC" = uapi::MAGIC;
        "SMBDIRECT_VERSION" = abi::VERSION;
        "SMBDIRECT_OLDEST_VERSION" = abi::OLDEST_VERSION;
        "SMBDIRECT_FEATURES" = abi::FEATURES;
        "SMBDIRECT_KIND_CLIENT_NOTE" = format!("{}U", abi::kind::CLIENT_NOTE);
        "SMBDIRECT_NOTE_MULTICHANNEL" = abi::note::MULTICHANNEL;
        "SMBDIRECT_OPTIONAL" = format!("{}U", abi::OPTIONAL);
        "SMBDIRECT_MAX_CONTROL_LENGTH" = abi::MAX_CONTROL_LENGTH;
        "SMBDIRECT_ALL_QUEUES" = format!("{}U", uapi::ALL_QUEUES);
        "SMBDIRECT_FOREVER" = format!("{}ULL", uapi::FOREVER);
        "SMBDIRECT_ANSWER_LATER" = uapi::answer::LATER;
        "SMBDIRECT_ENTER_LOOK" = uapi::enter::LOOK;
        "SMBDIRECT_READY_COMPLETIONS" = uapi::ready::COMPLETIONS;
        "SMBDIRECT_E_UNTRUSTED" = Status::Untrusted.code();
        "SMBDIRECT_KIND_RECLAIM" = abi::kind::RECLAIM;
        "SMBDIRECT_RECORD_COUNTER" = status::record::COUNTER;
        "SMBDIRECT_MAP_OFFSET(SMBDIRECT_REGION_RECEIVE, 255)" = map_offset(abi::region::RECEIVE, 255).unwrap();
        "SMBDIRECT_MAP_OFFSET(SMBDIRECT_MAP_QUEUE, 1)" = map_offset(uapi::MAP_QUEUE, 1).unwrap();
    }
    let mut sizes = 0;
    macro_rules! sizes {
        ($($module:ident::$($name:ident)*;)*) => {
            $($({
                let prefix = if stringify!($module) == "status" { "smbdirect_status_" } else { "smbdirect_" };
                let c = snake(stringify!($name));
                let size = size_of::<$module::$name>();
                writeln!(text, "IS(sizeof(struct {prefix}{c}), {size});").unwrap();
                sizes += 1;
            })*)*
        };
    }
    sizes! {
        abi::Control Attach SetParameters SetAddresses AllowedAddress ClientNote SetSessionId Claim Decline Grow
            Release StatusRequest EventsRequest CaptureRequest CaptureStarted Attached MemParams RegionShape Reply Segment Reclaim Queue Offer
            ConnInfo Wake StatusReport
            Addresses Address Detached Submission TransferSubmission Completion;
        uapi::AttachCall SetParametersCall SetAddressesCall SetSessionIdCall ClaimCall DeclineCall GrowCall
            GetEventsCall SubmitCall EnterCall StatusCall;
        status::Head Device SocketAddress Carried Connection Process Queue Close Counter;
    }
    let declared: usize = SOURCES
        .iter()
        .map(|(name, _)| structures(&source(name)).len())
        .sum();
    assert_eq!(
        sizes, declared,
        "this test does not check a structure of the header"
    );
    // The sizes alone do not show that two fields of the same length are in the same order.
    macro_rules! offsets {
        ($($name:ident: $($field:ident)*;)*) => {
            $($(
                let offset = std::mem::offset_of!(uapi::$name, $field);
                let field = stringify!($field);
                writeln!(text, "IS(offsetof(struct smbdirect_{}, {field}), {offset});", snake(stringify!($name))).unwrap();
            )*)*
        };
    }
    offsets! {
        AttachCall: attach attached status version;
        SetParametersCall: parameters security_blob status reserved;
        SetAddressesCall: set addresses status reserved;
        SetSessionIdCall: session status reserved;
        ClaimCall: cookie claim status reserved;
        DeclineCall: decline status reserved;
        GrowCall: cookie grow segment status reserved;
        GetEventsCall: buffer length reserved filled count;
        SubmitCall: submissions count queue taken reserved;
        EnterCall: queue flags wait_ns ready reserved;
        StatusCall: buffer length reserved filled needed;
    }
    assert_eq!(<uapi::EnterCall as Call>::NUMBER, number::ENTER);

    let directory = directory("header-uapi");
    let place = directory.join("uapi.c");
    fs::write(&place, text + "int main(void) { return 0; }\n").unwrap();
    fs::write(directory.join("smbdirect.h"), generated()).unwrap();
    let include = directory.to_str().expect("UTF-8");
    // Include this header before the library's, which has the same name.
    for (compiler, standard) in [("cc", "c11"), ("cc", "gnu17")] {
        compile(
            compiler,
            standard,
            &place,
            &["-fsyntax-only", "-iquote", include],
        );
    }
}
