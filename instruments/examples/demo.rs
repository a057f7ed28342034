// SPDX-License-Identifier: GPL-2.0-or-later

//! The client of `make demo` (`tools/demo.py` starts the server): copies a file to a share and back in one session,
//! three times: by RDMA, in SMB Direct messages, and over TCP. Each time it compares the file with the one on the
//! server's disk.
//!
//! The client holds the whole file in memory, so that only the copying is measured: by RDMA the server reads the file
//! from this memory and writes it there. The program is a single file, longer than the others, so that it can be read
//! as an example of a client.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use instruments::client::{
    Channel, Config, Connection, Create, Credentials, Disposition, FileId, Read, Registration,
    Write,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use smbdirect::broker::status::{ConnectionStatus, Status};
use smbdirect::fabric::Access;
use smbdirect::sys::Memory;

/// Bytes per request, if both sides allow that many.
const REQUEST: u32 = 1 << 20;
/// The number of requests that are outstanding at a time.
const DEPTH: usize = 8;
/// Bytes that are registered at a time: a multiple of every possible request size.
const PART: usize = 64 << 20;
/// How long smbdirectd may take to report its status.
const PATIENCE: Duration = Duration::from_secs(10);
/// `USER_HZ`: the ticks per second in which /proc counts processor time.
const TICKS: f64 = 100.0;
const GIB: f64 = (1_u64 << 30) as f64;

type Result<T> = std::result::Result<T, String>;

#[derive(Parser)]
struct Options {
    /// Where smbd serves TCP
    #[arg(long)]
    tcp: SocketAddr,
    /// The port of SMB Direct
    #[arg(long)]
    rdma_port: u16,
    /// The control socket of smbdirectd
    #[arg(long)]
    control: PathBuf,
    /// The process of smbdirectd
    #[arg(long)]
    broker: i32,
    /// The share, as `HOST/SHARE`
    #[arg(long)]
    share: String,
    /// The directory of the share, on the server's disk
    #[arg(long)]
    files: PathBuf,
    #[arg(long)]
    user: String,
    #[arg(long)]
    password: String,
    /// The size of the file, in MiB
    #[arg(long, default_value_t = 1024)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    mib: u32,
    /// Where to put the report
    #[arg(long)]
    report: PathBuf,
}

/// How file data is carried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Rdma,
    Inline,
    Tcp,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Rdma => "SMB Direct, by RDMA",
            Self::Inline => "SMB Direct, in messages",
            Self::Tcp => "TCP",
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Rdma => "by-rdma",
            Self::Inline => "in-messages",
            Self::Tcp => "over-tcp",
        }
    }
}

/// One copy.
struct Row {
    way: Way,
    write: bool,
    request: u32,
    time: Duration,
    inline: u64,
    rdma_read: u64,
    rdma_write: u64,
    smbd: f64,
    broker: f64,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let mut demo = Demo::start(options)?;
    let mut rows = Vec::new();
    for way in [Way::Rdma, Way::Inline, Way::Tcp] {
        rows.extend(demo.copy(way)?);
    }
    demo.tcp.log_off().map_err(text)?;
    println!("\n{}", table(&rows, demo.size));
    let report = report(&demo, &rows);
    let report = serde_json::to_string_pretty(&report).map_err(text)?;
    std::fs::write(&options.report, report + "\n")
        .map_err(|error| format!("{}: {error}", options.report.display()))?;
    println!("These results are also in {}.", options.report.display());
    Ok(())
}

struct Demo<'a> {
    options: &'a Options,
    tcp: Connection,
    direct: Connection,
    tree: u32,
    /// The contents of the file, which the copies are compared with.
    memory: Memory,
    size: usize,
    sha256: String,
}

impl<'a> Demo<'a> {
    /// Connects over TCP, asks for the server's RDMA address, and binds a channel there to the session.
    fn start(options: &'a Options) -> Result<Self> {
        let credentials = Credentials {
            user: options.user.clone(),
            password: options.password.clone(),
            domain: String::new(),
        };
        let path = format!(r"\\{}", options.share.replace('/', r"\"));
        let mut random = fastrand::Rng::new();
        let mut guid = [0; 16];
        random.fill(&mut guid);
        let mut tcp = Connection::tcp(options.tcp, Config::new(guid)).map_err(text)?;
        tcp.log_in(&credentials).map_err(text)?;
        let tree = tcp.tree_connect(&path).map_err(text)?;
        println!(
            "TCP: logged in at {} as {}, connected to {path}",
            options.tcp, options.user
        );
        let interfaces = tcp.network_interfaces(tree).map_err(text)?;
        for interface in &interfaces {
            let rdma = if interface.rdma { ", RDMA" } else { "" };
            let speed = interface.speed as f64 / 1e9;
            println!(
                "     the server has {}, {speed} Gbit/s{rdma}",
                interface.address
            );
        }
        let rdma = interfaces.iter().find(|interface| interface.rdma);
        let rdma = rdma.ok_or("smbd announces no RDMA address: is smbdirectd running?")?;
        let address = SocketAddr::new(rdma.address, options.rdma_port);
        let mut config = tcp.config().clone();
        // All channels of a session must speak the same version.
        config.dialects = vec![tcp.negotiated().dialect];
        let direct = Connection::smb_direct(address, config);
        let mut direct = direct.map_err(|error| format!("SMB Direct at {address}: {error}"))?;
        direct
            .bind(&tcp, &credentials)
            .map_err(|error| format!("binding a channel to the session: {error}"))?;
        println!("SMB Direct: another channel of the session, at {address}");

        let size = options.mib as usize * (1 << 20);
        let memory = Memory::zeroed(size);
        let mut chunk = vec![0; 1 << 20];
        for offset in (0..size).step_by(chunk.len()) {
            random.fill(&mut chunk);
            memory.write(offset, &chunk).map_err(text)?;
        }
        let sha256 = hash(&memory)?;
        println!(
            "The file: {} MiB of random bytes, SHA-256 {sha256}",
            options.mib
        );
        Ok(Self {
            options,
            tcp,
            direct,
            tree,
            memory,
            size,
            sha256,
        })
    }

    const fn connection(&mut self, way: Way) -> &mut Connection {
        match way {
            Way::Tcp => &mut self.tcp,
            _ => &mut self.direct,
        }
    }

    /// Writes the file, compares it with the disk, and reads it back.
    fn copy(&mut self, way: Way) -> Result<[Row; 2]> {
        let name = format!("demo-{}.bin", way.file());
        let tree = self.tree;
        let how = Create::file(Disposition::OverwriteIf);
        let created = self.connection(way).create(tree, &name, &how);
        let file = created.map_err(|error| format!("{name}: {error}"))?.file;
        let path = self.options.files.join(&name);
        self.fill(&path)?;
        let written = self.transfer(way, file, true)?;
        self.connection(way).close(tree, file).map_err(text)?;
        let on_disk = hash_file(&path)?;
        self.same("on the server's disk", &name, &on_disk)?;

        // Fill the memory with zeros first, so that data left from before cannot pass for data that was read.
        let zeros = vec![0; 1 << 20];
        for offset in (0..self.size).step_by(zeros.len()) {
            self.memory.write(offset, &zeros).map_err(text)?;
        }
        let how = Create::file(Disposition::Open);
        let created = self.connection(way).create(tree, &name, &how);
        let file = created.map_err(|error| format!("{name}: {error}"))?.file;
        let read = self.transfer(way, file, false)?;
        let connection = self.connection(way);
        connection
            .set_delete_on_close(tree, file, true)
            .map_err(text)?;
        connection.close(tree, file).map_err(text)?;
        let back = hash(&self.memory)?;
        self.same("read back", &name, &back)?;
        println!("     {name}: SHA-256 is the same on the disk and in the data read back");
        Ok([written, read])
    }

    /// Writes zeros over the whole length of the file, so that the system has memory and room for it. Otherwise the
    /// system may first have to get the memory from a hypervisor. That takes far longer than any way of writing, and
    /// would count against the way that is measured first.
    fn fill(&self, path: &PathBuf) -> Result<()> {
        let opened = OpenOptions::new().write(true).open(path);
        let mut file = opened.map_err(|error| format!("{}: {error}", path.display()))?;
        let zeros = vec![0; 1 << 20];
        for _ in (0..self.size).step_by(zeros.len()) {
            file.write_all(&zeros).map_err(text)?;
        }
        Ok(())
    }

    fn same(&self, place: &str, name: &str, found: &str) -> Result<()> {
        if found == self.sha256 {
            return Ok(());
        }
        Err(format!(
            "{name} {place} is not what was written: SHA-256 {found}"
        ))
    }

    /// Moves the whole file, and returns the time and the processor time that it took.
    fn transfer(&mut self, way: Way, file: FileId, write: bool) -> Result<Row> {
        let connection = self.connection(way);
        let limit = match way {
            Way::Rdma => connection.max_direct().unwrap_or(REQUEST),
            // A server does not announce the longest message that it sends, so take the longest that it receives.
            _ => connection
                .max_inline_write()
                .min(connection.max_inline_read()),
        };
        // Rounded down to a power of two, so that it divides the length that is registered at a time.
        let request = 1 << limit.clamp(1, REQUEST).ilog2();
        let memory = self.memory.clone();
        let parts = (0..self.size).step_by(PART).map(|offset| {
            memory
                .part(offset, PART.min(self.size - offset))
                .map_err(text)
        });
        let parts: Vec<Memory> = parts.collect::<Result<_>>()?;
        let mut registered = Vec::new();
        if way == Way::Rdma {
            let access = if write {
                Access::RemoteRead
            } else {
                Access::RemoteWrite
            };
            for part in &parts {
                registered.push(self.direct.register(part, access).map_err(text)?);
            }
        }
        let before = self.device()?;
        let cpu = (cpu(before.pid)?, cpu(Some(self.options.broker))?);
        let job = Job {
            tree: self.tree,
            file,
            memory,
            registered,
            write,
            request,
        };
        let line = Line::new(way, write);
        let start = Instant::now();
        let moved = job.run(self.connection(way), &line);
        let time = start.elapsed();
        line.end();
        moved.map_err(|error| format!("{}: {error}", way.name()))?;
        let after = self.device()?;
        for registration in &job.registered {
            self.direct.deregister(registration).map_err(text)?;
        }
        let gib = self.size as f64 / GIB;
        let row = Row {
            way,
            write,
            request,
            time,
            inline: after.inline_bytes_in - before.inline_bytes_in + after.inline_bytes_out
                - before.inline_bytes_out,
            rdma_read: after.rdma_read_bytes - before.rdma_read_bytes,
            rdma_write: after.rdma_write_bytes - before.rdma_write_bytes,
            smbd: (self::cpu(before.pid)? - cpu.0) / gib,
            broker: (self::cpu(Some(self.options.broker))? - cpu.1) / gib,
        };
        row.check(self.size as u64)?;
        Ok(row)
    }

    /// Returns what the device reports about the SMB Direct channel. The request goes over that channel, which also
    /// keeps it alive.
    fn device(&mut self) -> Result<ConnectionStatus> {
        self.direct.echo().map_err(text)?;
        let status = smbdirect::device::observe(&self.options.control, PATIENCE);
        let status = status.map_err(|status| format!("smbdirectd: {status:?}"))?;
        let status: Status = serde_json::from_str(&status).map_err(text)?;
        let found = status.connections.into_iter().next();
        found.ok_or_else(|| "smbdirectd does not list the connection".to_owned())
    }
}

/// A transfer of the file.
struct Job {
    tree: u32,
    file: FileId,
    memory: Memory,
    /// The registered parts of `memory`, if RDMA moves it.
    registered: Vec<Registration>,
    write: bool,
    request: u32,
}

impl Job {
    fn run(&self, connection: &mut Connection, line: &Line) -> Result<()> {
        let mut under_way = HashMap::new();
        let (mut begun, mut done) = (0, 0);
        while done < self.memory.len() {
            while begun < self.memory.len() && under_way.len() < DEPTH {
                let length = (self.memory.len() - begun).min(self.request as usize);
                under_way.insert(self.begin(connection, begun, length)?, (begun, length));
                begun += length;
            }
            let response = connection
                .next_response()
                .and_then(|response| response.ok())
                .map_err(text)?;
            let of = under_way.remove(&response.header.message_id);
            let (offset, length) = of.ok_or("a response without a request")?;
            let moved = if self.write {
                response.written().map_err(text)? as usize
            } else {
                let read = response.read().map_err(text)?;
                self.memory.write(offset, read.data).map_err(text)?;
                read.direct as usize + read.data.len()
            };
            if moved != length {
                return Err(format!(
                    "the server moved {moved} of {length} bytes at offset {offset}"
                ));
            }
            connection.recycle(response);
            done += length;
            line.show(done, self.memory.len());
        }
        Ok(())
    }

    /// Sends one request and returns its message id.
    fn begin(&self, connection: &mut Connection, offset: usize, length: usize) -> Result<u64> {
        let (file, at, short) = (self.file, offset as u64, length as u32);
        let channel = Channel::RdmaV1;
        let sent = match (self.registered.get(offset / PART), self.write) {
            (Some(part), write) => {
                let piece = [part.piece((offset % PART) as u32, short)];
                let request = if write {
                    Write::direct(file, at, short, channel, &piece).request(self.tree)
                } else {
                    Read::direct(file, at, short, channel, &piece).request(self.tree)
                };
                connection.send(&request)
            }
            (None, true) => {
                let data = self.memory.to_vec(offset, length).map_err(text)?;
                connection.send(&Write::inline(file, at, &data).request(self.tree))
            }
            (None, false) => connection.send(&Read::inline(file, at, short).request(self.tree)),
        };
        sent.map_err(text)
    }
}

impl Row {
    /// Checks by the device's counters that the data went the intended way.
    fn check(&self, size: u64) -> Result<()> {
        let Self {
            inline,
            rdma_read,
            rdma_write,
            ..
        } = *self;
        let right = match (self.way, self.write) {
            (Way::Rdma, true) => rdma_read >= size && rdma_write == 0 && inline < size / 20,
            (Way::Rdma, false) => rdma_write >= size && rdma_read == 0 && inline < size / 20,
            (Way::Inline, _) => inline >= size && rdma_read + rdma_write == 0,
            (Way::Tcp, _) => inline < size / 20 && rdma_read + rdma_write == 0,
        };
        if right {
            return Ok(());
        }
        Err(format!(
            "{}: the data went another way: {inline} bytes inline, {rdma_read} by RDMA READ, {rdma_write} by RDMA WRITE",
            self.way.name()
        ))
    }

    fn megabytes_per_second(&self, size: usize) -> f64 {
        size as f64 / 1e6 / self.time.as_secs_f64().max(1e-9)
    }
}

fn table(rows: &[Row], size: usize) -> String {
    let mut text = format!(
        "{:<24} {:<6} {:>8} {:>13} {:>13} {:>13} {:>7} {:>10} {:>10}\n",
        "channel",
        "what",
        "request",
        "inline",
        "RDMA READ",
        "RDMA WRITE",
        "MB/s",
        "smbd",
        "smbdirectd"
    );
    for row in rows {
        text += &format!(
            "{:<24} {:<6} {:>4} KiB {:>13} {:>13} {:>13} {:>7.0} {:>10.2} {:>10.2}\n",
            row.way.name(),
            if row.write { "write" } else { "read" },
            row.request >> 10,
            row.inline,
            row.rdma_read,
            row.rdma_write,
            row.megabytes_per_second(size),
            row.smbd,
            row.broker,
        );
    }
    text +=
        "smbdirectd counted the bytes; smbd, smbdirectd: seconds of processor time for each GiB.\n";
    text + &what_it_means(rows)
}

/// Explains what the table shows and what it does not: this is the first thing that people see of the project.
fn what_it_means(rows: &[Row]) -> String {
    let smbd = |way: Way, write| {
        let mut found = rows
            .iter()
            .filter(|row| row.way == way && row.write == write);
        found.next().map_or(0.0, |row| row.smbd)
    };
    let ratio = |write| smbd(Way::Rdma, write) / smbd(Way::Tcp, write).max(1e-9);
    format!(
        "smbd's processor time by RDMA, to that over TCP: {:.2} for writes, {:.2} for reads.\n\
         Here smbdirectd does in software, on the same processors, what an RDMA adapter does by itself: MB/s show that \
         it works,\nnot how fast it is with adapters.\n",
        ratio(true),
        ratio(false)
    )
}

fn report(demo: &Demo<'_>, rows: &[Row]) -> Value {
    let rows = rows.iter().map(|row| {
        json!({
            "channel": row.way.file(),
            "operation": if row.write { "write" } else { "read" },
            "request_bytes": row.request,
            "seconds": row.time.as_secs_f64(),
            "megabytes_per_second": row.megabytes_per_second(demo.size),
            "inline_bytes": row.inline,
            "rdma_read_bytes": row.rdma_read,
            "rdma_write_bytes": row.rdma_write,
            "smbd_cpu_seconds_per_gib": row.smbd,
            "smbdirectd_cpu_seconds_per_gib": row.broker,
        })
    });
    json!({
        "file_bytes": demo.size,
        "sha256": demo.sha256,
        "requests_at_a_time": DEPTH,
        "copies": rows.collect::<Vec<_>>(),
    })
}

fn hash(memory: &Memory) -> Result<String> {
    let mut hash = Sha256::new();
    memory
        .for_each_chunk(0, memory.len(), |chunk| hash.update(chunk))
        .map_err(text)?;
    Ok(hex(&hash.finalize()))
}

fn hash_file(path: &PathBuf) -> Result<String> {
    let wrong = |error: io::Error| format!("{}: {error}", path.display());
    let mut file = File::open(path).map_err(wrong)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk).map_err(wrong)? {
            0 => return Ok(hex(&hash.finalize())),
            length => hash.update(chunk.get(..length).unwrap_or_default()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the processor time that a process has used so far, in seconds.
fn cpu(pid: Option<i32>) -> Result<f64> {
    let pid = pid.ok_or("no process owns the SMB Direct channel")?;
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    // The name of the program, in parentheses, may have spaces in it.
    let (_, fields) = stat.rsplit_once(") ").ok_or("/proc is not as expected")?;
    let mut times = fields.split(' ').skip(11).take(2);
    let mut next = || times.next()?.parse::<f64>().ok();
    let sum = next().zip(next()).map(|(user, system)| user + system);
    Ok(sum.ok_or("/proc is not as expected")? / TICKS)
}

/// A line that shows how far a copy has come, but only on a terminal, and only until the copy ends.
struct Line {
    what: String,
    terminal: bool,
}

impl Line {
    fn new(way: Way, write: bool) -> Self {
        let doing = if write { "writing" } else { "reading" };
        let what = format!("     {doing}, {}", way.name());
        let terminal = io::stdout().is_terminal();
        if !terminal {
            println!("{what}");
        }
        Self { what, terminal }
    }

    fn show(&self, done: usize, size: usize) {
        if self.terminal && done % (16 << 20) < REQUEST as usize {
            print!(
                "\r\x1b[K{}: {} of {} MiB",
                self.what,
                done >> 20,
                size >> 20
            );
            let _ = io::stdout().flush();
        }
    }

    fn end(&self) {
        if self.terminal {
            print!("\r\x1b[K");
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
