// SPDX-License-Identifier: GPL-2.0-or-later

use super::*;
use crate::top::keys::Key;

/// Makes a report of a device with some connections; `moved` says how much each has moved.
fn report(uptime: f64, moved: [u64; 3]) -> Device {
    let connection = |peer: &str, bytes: u64, protection: &str| {
        serde_json::json!({
            "peer": peer, "fabric": "software", "pid": 1234, "state": "owned", "authenticated": true,
            "protection": protection, "send_credits": 255, "receive_credits": 254, "outstanding": 2,
            "age_seconds": uptime, "inline_bytes_in": bytes / 4, "rdma_write_bytes": bytes / 4 * 3,
        })
    };
    let all = moved.iter().sum::<u64>();
    let mut device: Device = serde_json::from_value(serde_json::json!({
        "version": "0.1.0", "uptime_seconds": uptime, "start_time_seconds": 951_827_600.0,
        "limits": {"connections": 4096, "memory": 8_u64 << 30},
        "totals": {"connections": 3, "memory": 76 << 20},
        "usage": {"cpu_seconds": uptime / 4.0, "resident_bytes": 34 << 20},
        "processes": [{"role": "listener", "pid": 1}, {"role": "worker"}, {"role": "worker"}],
        "carried": {"software": {"inline_bytes_in": all / 4, "rdma_write_bytes": all / 4 * 3, "messages_in": all}},
        "connections": [
            connection("10.0.0.5:49152", moved[0], "plain"),
            connection("10.0.0.6:49152", moved[1], "signed in messages"),
            connection("[2001:db8:1234:5678:9abc:def0:1234:5678]:49152", moved[2], "encrypted"),
        ],
    }))
    .unwrap();
    device.users = Some(Ok(()));
    for (connection, user) in device
        .connections
        .iter_mut()
        .zip(["alice", "EXAMPLE\\bob", "alice"])
    {
        connection.user = Some(user.to_owned());
    }
    device
}

fn scene() -> Scene {
    let mut scene = Scene::new(report(100.0, [0; 3]));
    scene.add(Ok(report(102.0, [8 << 10, 16 << 10, 4 << 10])));
    scene
}

const SIZE: Size = Size {
    rows: 24,
    columns: 100,
};

fn texts(scene: &Scene, view: &View, size: Size) -> Vec<String> {
    let screen = draw(scene, view, size);
    assert_eq!(screen.lines.len(), size.rows);
    let texts = screen.lines.into_iter().map(|line| {
        assert!(line.text.chars().count() <= size.columns, "{line:?}");
        assert!(!line.text.contains(char::is_control), "{line:?}");
        line.text.trim_end().to_owned()
    });
    texts.collect()
}

#[test]
fn shows_the_busiest_connections_first() {
    let texts = texts(&scene(), &View::new(Sort::Traffic, false), SIZE);
    assert_eq!(
        texts[..8],
        [
            "smbdirect 0.1.0, up 102 s, 3 clients, 2000-02-29T12:35:02Z",
            "3 of 4096 connections, 2 workers, 76.0 MiB of 8.0 GiB memory, smbdirectd: 25% CPU, 34.0 MiB resident",
            "software: 3.5 KiB/s in, 10.5 KiB/s out, 14336 messages/s, 0 transfers/s",
            "client                                            by process    state     in/s    out/s rdma    age",
            "10.0.0.6:49152                                  soft    1234 owned Sm  2.0 KiB  6.0 KiB  75%  102 s",
            "10.0.0.5:49152                                  soft    1234    owned  1.0 KiB  3.0 KiB  75%  102 s",
            "[2001:db8:1234:5678:9abc:def0:1234:5678]:49152  soft    1234  owned E    512 B  1.5 KiB  75%  102 s",
            "",
        ]
    );
    assert_eq!(
        texts[23],
        "q quit  s sort: traffic  c clients  u users  p pause  h help  1-3 of 3"
    );
    let screen = draw(&scene(), &View::new(Sort::Traffic, false), SIZE);
    assert_eq!((screen.rows, screen.page), (3, 19));
    assert_eq!(screen.lines[4].style, Style::Limited);
    assert_eq!(screen.lines[5].style, Style::Plain);
}

#[test]
fn groups_connections_by_client_and_by_user() {
    let mut view = View::new(Sort::Traffic, false);
    view.handle_key(Key::Char('u'));
    let shown = texts(&scene(), &view, SIZE);
    assert_eq!(
        shown[3..7],
        [
            "user                   clients conns     in/s    out/s rdma    age",
            "EXAMPLE\\bob                  1     1  2.0 KiB  6.0 KiB  75%  102 s",
            "alice                        2     2  1.5 KiB  4.5 KiB  75%  102 s",
            "",
        ]
    );
    view.handle_key(Key::Char('c'));
    view.handle_key(Key::Char('s'));
    let shown = texts(&scene(), &view, SIZE);
    assert!(
        shown[3].starts_with("client ") && shown[3].contains(" user "),
        "{shown:?}"
    );
    assert!(
        shown[4].starts_with("10.0.0.6 ") && shown[4].contains(" EXAMPLE\\bob "),
        "{shown:?}"
    );
    assert!(
        shown[6].starts_with("2001:db8:1234:5678:9abc:def0:1234:5678 "),
        "{shown:?}"
    );
}

#[test]
fn rows_are_in_the_order_of_the_view() {
    let mut scene = scene();
    let seen = |scene: &Scene, sort| {
        let texts = texts(scene, &View::new(sort, false), SIZE);
        let rows = texts[4..7]
            .iter()
            .map(|row| row.chars().take(8).collect::<String>());
        rows.collect::<Vec<_>>()
    };
    assert_eq!(
        seen(&scene, Sort::Name),
        ["10.0.0.5", "10.0.0.6", "[2001:db"]
    );
    assert_eq!(seen(&scene, Sort::In), ["10.0.0.6", "10.0.0.5", "[2001:db"]);
    scene.shown.connections[2].age_seconds = 1000.0;
    assert_eq!(
        seen(&scene, Sort::Age),
        ["[2001:db", "10.0.0.5", "10.0.0.6"]
    );
    scene.shown.connections[1].rdma_write_bytes = 1 << 20;
    assert_eq!(
        seen(&scene, Sort::Out),
        ["10.0.0.5", "10.0.0.6", "[2001:db"]
    );
}

#[test]
fn fits_every_terminal() {
    let mut view = View::new(Sort::Traffic, true);
    for key in [None, Some('u'), Some('c'), Some('h')] {
        key.map(|key| view.handle_key(Key::Char(key)));
        for rows in 0..40 {
            for columns in [0, 1, 5, 20, 39, 40, 60, 80, 100, 130, 300] {
                let size = Size { rows, columns };
                let screen = draw(&scene(), &view, size);
                assert_eq!(screen.lines.len(), rows.max(1));
                for line in &screen.lines {
                    assert!(line.text.chars().count() <= columns, "{size:?}: {line:?}");
                }
            }
        }
    }
    // Without long names, there is room for all columns.
    let mut short = scene();
    short.shown.connections.pop();
    let shown = texts(&short, &View::new(Sort::Traffic, false), SIZE);
    assert_eq!(
        shown[3..5],
        [
            "client                    by process    state     in/s    out/s rdma     credits  wait    age",
            "10.0.0.6:49152          soft    1234 owned Sm  2.0 KiB  6.0 KiB  75%     255/254     2  102 s",
        ]
    );
    // A narrow terminal still shows who moves how much.
    let texts = texts(
        &scene(),
        &View::new(Sort::Traffic, true),
        Size {
            rows: 10,
            columns: 40,
        },
    );
    assert_eq!(texts[3], "client                     in/s    out/s");
    assert_eq!(texts[4], "10.0.0.6:49152          2.0 KiB  6.0 KiB");
}

#[test]
fn scrolls_and_says_which_rows_are_shown() {
    let mut view = View::new(Sort::Name, false);
    let size = Size {
        rows: 7,
        columns: 100,
    };
    let screen = draw(&scene(), &view, size);
    assert_eq!((screen.rows, screen.page), (3, 2));
    view.fit(screen.rows, screen.page);
    view.handle_key(Key::End);
    let shown = texts(&scene(), &view, size);
    assert!(shown[4].starts_with("10.0.0.6"), "{shown:?}");
    assert!(shown[6].ends_with("2-3 of 3"), "{shown:?}");
}

#[test]
fn says_what_is_wrong() {
    let mut view = View::new(Sort::Traffic, true);
    view.handle_key(Key::Char('p'));
    let mut scene = scene();
    scene.add(Err("no device".to_owned()));
    scene.shown.users = Some(Err("only root".to_owned()));
    let shown = texts(&scene, &view, SIZE).join("\n");
    for words in [
        "paused; p goes on",
        "the device does not answer; waiting for it: no device",
        "users are unknown: only root",
    ] {
        assert!(shown.contains(words), "{shown}");
    }
    let mut again = report(1.0, [0; 3]);
    again.start_time_seconds = Some(951_828_000.0);
    again.processes.clear();
    again.stopping = true;
    scene.add(Ok(again));
    let view = View::new(Sort::Traffic, false);
    let shown = texts(&scene, &view, SIZE).join("\n");
    for words in [
        "the device was restarted at 2000-02-29T12:40:00Z",
        "no smbd is attached",
        "the device is stopping",
        "        -        -    -",
    ] {
        assert!(shown.contains(words), "no {words:?} in\n{shown}");
    }
    assert!(
        !shown.contains("does not answer") && !shown.contains("CPU"),
        "{shown}"
    );
    let shown = draw(&scene, &view, SIZE);
    assert!(shown.lines.iter().any(|line| line.style == Style::Warning));
}

#[test]
fn long_notices_go_on_in_the_next_line() {
    let mut scene = scene();
    scene.add(Err(
        "/run/smbdirect/control: Permission denied: run this as root".to_owned(),
    ));
    let size = Size {
        rows: 24,
        columns: 40,
    };
    let view = View::new(Sort::Traffic, false);
    let shown = texts(&scene, &view, size);
    assert_eq!(
        shown[3..7],
        [
            "the device does not answer; waiting for",
            "it: /run/smbdirect/control: Permission",
            "denied: run this as root",
            "client                     in/s    out/s",
        ]
    );
    assert_eq!(wrap("a bc", 4), ["a bc"]);
    assert_eq!(wrap("a bc d", 4), ["a bc", "d"]);
    assert_eq!(wrap("ä/öü/é b", 3), ["ä/ö", "ü/é", "b"]);
    assert_eq!(wrap(" ab", 1), [" ", "a", "b"]);
    assert_eq!(wrap("", 0), [""]);
}

#[test]
fn shows_its_keys() {
    let mut view = View::new(Sort::Traffic, false);
    view.handle_key(Key::Char('?'));
    let shown = texts(&scene(), &view, SIZE).join("\n");
    for key in [
        "q, Ctrl-C",
        "\ns ",
        "\nc ",
        "\nu ",
        "\np ",
        "Page Up",
        "h, ?",
    ] {
        assert!(shown.contains(key), "{key}: {shown}");
    }
    assert!(!shown.contains("10.0.0.5"), "instead of the table");
    assert!(HELP.iter().all(|line| line.len() <= 100));
}

#[test]
fn one_client_is_one() {
    let mut scene = scene();
    scene.shown.connections.truncate(1);
    let shown = texts(&scene, &View::new(Sort::Traffic, false), SIZE);
    assert!(shown[0].contains(", 1 client, "), "{shown:?}");
}

#[test]
fn an_empty_device_has_a_screen() {
    let scene = Scene::new(serde_json::from_str("{}").unwrap());
    let shown = texts(&scene, &View::new(Sort::Traffic, false), SIZE);
    assert!(shown[23].ends_with("0 rows"), "{shown:?}");
}
