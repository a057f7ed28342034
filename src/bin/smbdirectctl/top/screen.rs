// SPDX-License-Identifier: GPL-2.0-or-later

//! Draws the screen of `top`: a function of the scene, the view and the size alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::super::status::words::{short_fabric, short_user};
use super::super::status::{Age, Bytes, Connection, Device, endpoint};
use super::super::utc::Utc;
use super::scene::Scene;
use super::view::{Group, Sort, View};

#[cfg(test)]
mod tests;

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    /// The head of the table, and the line of keys.
    Bar,
    /// Something is wrong.
    Warning,
    /// A connection whose data does not go by RDMA.
    Limited,
}

/// A line, which has at most as many characters as the screen has columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) style: Style,
}

/// A whole screen.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) lines: Vec<Line>,
    /// Number of rows of the table, including those that are not shown.
    pub(super) rows: usize,
    /// Number of rows for which there is room.
    pub(super) page: usize,
}

/// Draws the screen.
pub(super) fn draw(scene: &Scene, view: &View, size: Size) -> Screen {
    let mut lines = head(scene, view, size.columns);
    let table = table(&scene.shown, view);
    let count = table.rows.len();
    // The head of the table, and the line of keys.
    let page = size.rows.saturating_sub(lines.len() + 2);
    let first = view.first.min(count.saturating_sub(page));
    if view.has_help {
        lines.extend(HELP.map(|text| line(text, Style::Plain)));
    } else {
        lines.extend(table.draw(first, page, size.columns));
    }
    lines.truncate(size.rows.saturating_sub(1));
    let empty = size.rows.saturating_sub(1).saturating_sub(lines.len());
    lines.extend((0..empty).map(|_| line("", Style::Plain)));
    let shown = first + 1..=count.min(first + page);
    lines.push(line(&keys(view, &shown, count), Style::Bar));
    for line in &mut lines {
        line.text = cut(&line.text, size.columns);
        if line.style == Style::Bar {
            line.text = format!("{:<1$}", line.text, size.columns);
        }
    }
    Screen {
        lines,
        rows: count,
        page,
    }
}

fn line(text: &str, style: Style) -> Line {
    Line {
        text: text.to_owned(),
        style,
    }
}

/// Returns the first characters of a text.
fn cut(text: &str, columns: usize) -> String {
    text.chars().take(columns).collect()
}

/// Breaks a text into lines of at most this many characters, between words if possible.
fn wrap(text: &str, columns: usize) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    // The first character that does not fit.
    while let Some((end, next)) = rest.char_indices().nth(columns.max(1)) {
        let at = match next {
            ' ' => end,
            _ => {
                let space = rest[..end].rfind(' ');
                space.filter(|at| *at > 0).unwrap_or(end)
            }
        };
        let (line, after) = rest.split_at(at);
        lines.push(line);
        rest = after.trim_start_matches(' ');
    }
    lines.push(rest);
    lines
}

/// What `h` shows.
const HELP: [&str; 17] = [
    "",
    "q, Ctrl-C            end",
    "s                    sort by another column: traffic, in, out, age, name",
    "c                    one row for each client, or for each connection again",
    "u                    one row for each user, or for each connection again (as root)",
    "p                    pause; p again goes on",
    "arrows, j, k         scroll by a row",
    "Page Up, Page Down   scroll by a page; Home and End, to the first and the last row",
    "h, ?                 this help; h again ends it",
    "",
    "in, out: bytes per second from and to the client, in messages and by RDMA",
    "rdma: the part of these bytes that went by RDMA",
    "state: * not logged in, S signed, E encrypted, ? unknown, m data goes in messages,",
    "       e encrypted by a share or the client although the session does not demand it",
    "credits: messages that may be sent to the client, and that it may send",
    "wait: requests of smbd that the device has not answered",
    "smbdirectctl status CONNECTION shows everything about a connection",
];

/// Returns the last line.
fn keys(view: &View, shown: &RangeInclusive<usize>, count: usize) -> String {
    let rows = match shown.is_empty() {
        true => format!("{count} rows"),
        false => format!("{}-{} of {count}", shown.start(), shown.end()),
    };
    format!(
        "q quit  s sort: {}  c clients  u users  p pause  h help  {rows}",
        view.sort.name()
    )
}

/// Returns the lines above the table. Those that say what is wrong are broken at the width of the screen.
fn head(scene: &Scene, view: &View, columns: usize) -> Vec<Line> {
    let device = &scene.shown;
    let (limits, totals) = (&device.limits, &device.totals);
    let clients: BTreeSet<String> = device.connections.iter().map(client).collect();
    let clients = match clients.len() {
        1 => "1 client".to_owned(),
        count => format!("{count} clients"),
    };
    let mut first = format!(
        "smbdirect {}, up {}, {clients}",
        device.version,
        Age(device.uptime_seconds)
    );
    if let Some(start) = device.start_time_seconds {
        let now = Utc(start + device.uptime_seconds).to_the_second();
        first += &format!(", {now}");
    }
    let workers = device.processes.iter();
    let workers = workers.filter(|it| it.role == "worker").count();
    let mut second = format!(
        "{} of {} connections, {workers} workers, {} of {} memory",
        totals.connections,
        limits.connections,
        Bytes(totals.memory),
        Bytes(limits.memory)
    );
    if let Some(cpu) = scene.cpu {
        second += &format!(", smbdirectd: {cpu:.0}% CPU");
        if let Some(usage) = &device.usage {
            second += &format!(", {} resident", Bytes(usage.resident_bytes));
        }
    }
    let mut lines = vec![line(&first, Style::Bold), line(&second, Style::Plain)];
    for (fabric, rates) in device.rates.iter().flatten() {
        let bytes = |rate: f64| Bytes(rate.round() as u64);
        let text = format!(
            "{fabric}: {}/s in, {}/s out, {:.0} messages/s, {:.0} transfers/s",
            bytes(rates.received),
            bytes(rates.sent),
            rates.messages,
            rates.transfers
        );
        lines.push(line(&text, Style::Bold));
    }
    for text in warnings(scene, view) {
        let parts = wrap(&text, columns).into_iter();
        lines.extend(parts.map(|part| line(part, Style::Warning)));
    }
    lines
}

/// Returns what the user should know before looking at the table.
fn warnings(scene: &Scene, view: &View) -> impl Iterator<Item = String> {
    let device = &scene.shown;
    let silence = scene.silence.as_ref();
    let restarted = scene.is_new.then(|| {
        let when = device
            .start_time_seconds
            .map(|start| Utc(start).to_the_second());
        let when = when.map(|when| format!(" at {when}")).unwrap_or_default();
        format!("the device was restarted{when}; its connections are new")
    });
    let users = match &device.users {
        Some(Err(reason)) if view.has_users => Some(format!("users are unknown: {reason}")),
        None if view.has_users => Some("users are shown after the next update".to_owned()),
        _ => None,
    };
    let listener = device.listener().is_none() && silence.is_none();
    [
        view.is_paused.then(|| "paused; p goes on".to_owned()),
        silence.map(|why| format!("the device does not answer; waiting for it: {why}")),
        restarted,
        device.stopping.then(|| "the device is stopping".to_owned()),
        listener.then(|| "no smbd is attached (smbdirectctl doctor says more)".to_owned()),
        users,
    ]
    .into_iter()
    .flatten()
}

/// Returns the address of a connection's client.
fn client(connection: &Connection) -> String {
    let end = endpoint(&connection.peer);
    end.map_or_else(
        || connection.peer.clone(),
        |(address, _)| address.to_string(),
    )
}

/// A column of a table.
#[derive(Clone, Copy)]
struct Column {
    title: &'static str,
    width: usize,
    /// Columns with the highest rank are left out first if the screen is narrow, and those with 0 never.
    rank: u8,
    cell: fn(&Row) -> String,
}

const fn column(title: &'static str, width: usize, rank: u8, cell: fn(&Row) -> String) -> Column {
    Column {
        title,
        width,
        rank,
        cell,
    }
}

/// Columns of a name of a user.
const USER: usize = 14;

const IN: Column = column("in/s", 8, 0, |row| rate(row.traffic.map(|it| it.received)));
const OUT: Column = column("out/s", 8, 0, |row| rate(row.traffic.map(|it| it.sent)));
const RDMA: Column = column("rdma", 4, 3, |row| row.part_by_rdma());
const OLDEST: Column = column("age", 6, 2, |row| Age(row.age).to_string());
const COUNT: Column = column("conns", 5, 4, |row| row.connections.to_string());
const WHO: Column = column("user", USER, 1, |row| {
    short_user(row.users().as_deref(), USER)
});

const OF_CONNECTIONS: &[Column] = &[
    WHO,
    column("by", 5, 6, |row| row.fabric.clone()),
    column("process", 7, 7, |row| row.process.clone()),
    column("state", 8, 5, |row| row.state.clone()),
    IN,
    OUT,
    RDMA,
    column("credits", 11, 9, |row| row.credits.clone()),
    column("wait", 5, 8, |row| row.outstanding.to_string()),
    OLDEST,
];
const OF_CLIENTS: &[Column] = &[WHO, COUNT, IN, OUT, RDMA, OLDEST];
const OF_USERS: &[Column] = &[
    column("clients", 7, 5, |row| row.clients.len().to_string()),
    COUNT,
    IN,
    OUT,
    RDMA,
    OLDEST,
];

fn rate(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), |bytes| Bytes(bytes).to_string())
}

/// What moves per second.
#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    received: u64,
    sent: u64,
    rdma: u64,
}

/// A row: a connection, or several connections with one client or user.
#[derive(Debug, Default)]
struct Row {
    name: String,
    users: BTreeSet<String>,
    clients: BTreeSet<String>,
    connections: usize,
    fabric: String,
    process: String,
    state: String,
    credits: String,
    outstanding: u64,
    /// Age in seconds of the oldest connection.
    age: f64,
    /// `None` as long as there is only one report.
    traffic: Option<Traffic>,
    is_limited: bool,
}

impl Row {
    fn add(&mut self, connection: &Connection, has_rates: bool) {
        self.clients.insert(client(connection));
        self.users.extend(connection.user.clone());
        self.connections += 1;
        self.fabric = short_fabric(&connection.fabric).to_owned();
        self.process = connection.process();
        self.state = connection.state();
        self.credits = connection.credits();
        self.outstanding = self.outstanding.saturating_add(connection.outstanding);
        self.age = self.age.max(connection.age_seconds);
        self.is_limited |= connection.in_messages().is_some();
        if has_rates {
            let traffic = self.traffic.get_or_insert_default();
            let rdma = [connection.rdma_read_bytes, connection.rdma_write_bytes];
            for (sum, bytes) in [
                (&mut traffic.received, [connection.inline_bytes_in, rdma[0]]),
                (&mut traffic.sent, [connection.inline_bytes_out, rdma[1]]),
                (&mut traffic.rdma, rdma),
            ] {
                *sum = bytes.into_iter().fold(*sum, u64::saturating_add);
            }
        }
    }

    fn users(&self) -> Option<String> {
        let names: Vec<&str> = self.users.iter().map(String::as_str).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Returns what moves per second in both directions.
    fn all(&self) -> u64 {
        let traffic = self.traffic.unwrap_or_default();
        traffic.received.saturating_add(traffic.sent)
    }

    fn part_by_rdma(&self) -> String {
        match (self.traffic, self.all()) {
            (None, _) | (_, 0) => "-".to_owned(),
            (Some(traffic), all) => format!("{:.0}%", traffic.rdma as f64 / all as f64 * 100.0),
        }
    }

    /// Returns the number by which rows are sorted, the greatest first; equal ones are sorted by name.
    fn weight(&self, sort: Sort) -> f64 {
        let traffic = self.traffic.unwrap_or_default();
        match sort {
            Sort::Traffic => self.all() as f64,
            Sort::In => traffic.received as f64,
            Sort::Out => traffic.sent as f64,
            Sort::Age => self.age,
            Sort::Name => 0.0,
        }
    }
}

struct Table {
    /// The title of the first column, which has the names of rows.
    title: &'static str,
    columns: Vec<Column>,
    rows: Vec<Row>,
}

fn table(device: &Device, view: &View) -> Table {
    let has_rates = device.rates.is_some();
    let mut rows = BTreeMap::<(String, usize), Row>::new();
    for (number, connection) in device.connections.iter().enumerate() {
        let key = match view.group {
            // Several connections may have the same port of a client.
            Group::Connections => (connection.peer.clone(), number),
            Group::Clients => (client(connection), 0),
            Group::Users => (connection.user.clone().unwrap_or_else(|| "-".to_owned()), 0),
        };
        rows.entry(key).or_default().add(connection, has_rates);
    }
    let mut rows: Vec<Row> = rows
        .into_iter()
        .map(|((name, _), row)| Row { name, ..row })
        .collect();
    rows.sort_by(|a, b| b.weight(view.sort).total_cmp(&a.weight(view.sort)));
    let (title, columns) = match view.group {
        Group::Connections => ("client", OF_CONNECTIONS),
        Group::Clients => ("client", OF_CLIENTS),
        Group::Users => ("user", OF_USERS),
    };
    let columns = columns.iter().copied();
    Table {
        title,
        columns: columns
            .filter(|column| column.title != WHO.title || view.has_users)
            .collect(),
        rows,
    }
}

/// Columns of the first column.
const FIRST: usize = 22;
/// Columns of this rank or a higher one give way to names that need more than [`FIRST`].
const SPARE: u8 = 7;

impl Table {
    /// Draws the head, and the rows from `first` on.
    fn draw(&self, first: usize, page: usize, columns: usize) -> Vec<Line> {
        let mut shown = self.columns.clone();
        let width = |shown: &[Column]| shown.iter().map(|it| it.width + 1).sum::<usize>();
        let longest = self.rows.iter().map(|row| row.name.chars().count()).max();
        let longest = longest.unwrap_or_default().max(FIRST);
        // Some columns give way to long names, and others only to the numbers that remain in every case.
        for (names, least) in [(longest, SPARE), (FIRST, 1)] {
            while names + width(&shown) > columns {
                let rank = shown.iter().map(|it| it.rank).max().unwrap_or_default();
                if rank < least {
                    break;
                }
                shown.retain(|it| it.rank != rank);
            }
        }
        let left = longest.min(columns.saturating_sub(width(&shown)));
        let mut head = format!("{:<left$}", cut(self.title, left));
        for column in &shown {
            head += &format!(" {:>1$}", column.title, column.width);
        }
        let rows = self.rows.iter().skip(first).take(page).map(|row| {
            let mut text = format!("{:<left$}", short_user(Some(&row.name), left));
            for column in &shown {
                let cell = cut(&(column.cell)(row), column.width);
                text += &format!(" {cell:>0$}", column.width);
            }
            let style = if row.is_limited {
                Style::Limited
            } else {
                Style::Plain
            };
            line(&text, style)
        });
        let mut lines = vec![line(&head, Style::Bar)];
        lines.extend(rows);
        lines
    }
}
