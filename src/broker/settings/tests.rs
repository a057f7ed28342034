// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests what a configuration file may say, and that errors name the place of a mistake.

use std::time::Duration;

use super::*;

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(Settings::parse(""), Ok(Settings::default()));
}

#[test]
fn what_it_writes_it_reads_again() {
    let default = Settings::default();
    assert_eq!(Settings::parse(&default.to_toml()), Ok(default));

    let text = r#"
        log = "smbdirect::broker=debug"
        log_format = "json"
        listen = ["10.0.0.1", "[fe80::1%3]:0", {address = "::1", link_speed = "25 Gbit/s"}, {address = "::2", fabric = "software"}]
        fabric = "auto"
        control = "/tmp/control"
        status_group = "0"
        reactors = 3
        busy_poll = "0 s"
        max_connections = 1
        max_unnegotiated = 2
        max_unnegotiated_per_source = 3
        max_unauthenticated = 9
        max_undispatched = 4
        gateways = ["10.0.0.2", "2001:db8::1"]
        first_request_timeout = "5 ms"
        login_timeout = "7 s"
        claim_timeout = "6s"
        progress_timeout = "17 s"
        max_workers = 7
        max_sessions = 8
        memory_limit = 1073741824
        queue_depth = 512
        drain_timeout = "9 min"
        [metrics]
        listen = "[::1]"
        socket = "/tmp/metrics"
        [iwarp]
        crc = true
        [acceptor]
        receive_credit_max = 10
        send_credit_target = 11
        max_send_size = 1024
        max_receive_size = "2 KiB"
        max_fragmented_size = "128 KiB"
        max_read_write_size = "1 MiB"
        negotiation_timeout = "12 s"
        idle_timeout = "13 s"
        keepalive_timeout = "14 s"
        credit_timeout = "15 s"
        message_timeout = "16 s"
        [memory]
        limit = "512 MiB"
        bulk.unit_length = "64 KiB"
        bulk.longest_run = 16
        send.max_segments = 1
        receive.units_per_segment = 300
    "#;
    let settings = Settings::parse(text).unwrap();
    let broker = &settings.broker;
    assert!(settings.crc);
    assert_eq!(broker.metrics, Some("[::1]:9445".parse().unwrap()));
    assert_eq!(broker.metrics_socket, Some("/tmp/metrics".into()));
    assert_eq!(broker.listen[0], "10.0.0.1:5445".parse().unwrap());
    let address = "[::1]:5445".parse().unwrap();
    let link_speed = Some(25_000_000_000);
    assert_eq!(
        broker.listen[2],
        Listen {
            address,
            link_speed,
            fabric: None,
        }
    );
    let software = Listen {
        fabric: Some(FabricKind::Software),
        .."[::2]:5445".parse().unwrap()
    };
    assert_eq!((broker.listen[3], broker.fabric), (software, None));
    assert_eq!(broker.claim_timeout, Duration::from_secs(6));
    assert_eq!(broker.progress_timeout, Duration::from_secs(17));
    assert_eq!(broker.acceptor.message_timeout, Duration::from_secs(16));
    assert_eq!(broker.memory_limit, 1 << 30);
    assert_eq!(broker.acceptor.max_receive_size, 2048);
    assert_eq!(broker.memory.bulk.unit_length, 64 << 10);
    assert_eq!(broker.memory.bulk.units_per_segment, 1024, "as by default");
    assert_eq!(broker.memory.receive.units_per_segment, 300);
    assert_eq!(broker.memory.receive.longest_run, 300, "a segment");
    assert_eq!(Settings::parse(&settings.to_toml()), Ok(settings));
}

/// Returns the error for a file: where the file is wrong, and what is wrong.
fn error(text: &str) -> String {
    Settings::parse(text).unwrap_err().to_string()
}

#[test]
fn an_error_names_the_line_the_key_the_value_and_what_is_allowed() {
    for (text, parts) in [
        (
            "listen = [{address = \"10.0.0.1\", link_speed = \"10 Gb/s\"}]",
            [
                "line 1",
                "a speed is a whole number with a unit (bit/s",
                "\"25 Gbit/s\"",
            ],
        ),
        (
            "listen = [\"::\", {address = \"::1\", speed = \"10 Gbit/s\"}]",
            ["line 1", "unknown key speed", "address, link_speed, fabric"],
        ),
        (
            "\nmetrics.listen = \"here\"",
            [
                "line 2",
                "\"here\": the address of the metrics is numeric",
                "\"127.0.0.1:9445\"",
            ],
        ),
        (
            "[metrics]\nlisten = \"0.0.0.0:9445\"",
            [
                "line 2: metrics.listen is \"0.0.0.0:9445\"",
                "must be a loopback address, such as \"127.0.0.1:9445\"",
                "smbdirectctl metrics --textfile",
            ],
        ),
        (
            "[metrics]\n\nsocket = \"metrics\"",
            [
                "line 3: metrics.socket is \"metrics\"",
                "must be an absolute path of at most 100 bytes",
                "or empty",
            ],
        ),
        (
            "gateways = [\"10.0.0.0/24\"]",
            [
                "line 1",
                "\"10.0.0.0/24\": a gateway is a numeric address",
                "networks and names cannot be given",
            ],
        ),
        (
            "fabric = \"roce\"",
            ["line 1", "\"roce\": a fabric is", "\"verbs\""],
        ),
        (
            "listen = [5445]",
            [
                "line 1",
                "invalid type: integer `5445`, and must be",
                "an address, or a table with address, link_speed and fabric",
            ],
        ),
        (
            "listen = [{address = \"10.0.0.1\", link_speed = \"9600 bit/s\"}]",
            [
                "line 1",
                "10.0.0.1:5445 with a link_speed of 9600 bit/s",
                "1 Mbit/s to",
            ],
        ),
        (
            "\nreactor = 3",
            [
                "line 2 (`reactor = 3`)",
                "unknown key reactor",
                "did you mean reactors?",
            ],
        ),
        (
            "[acceptor]\nmax_size = 3",
            [
                "line 2 (`max_size = 3`)",
                "unknown key max_size",
                "max_send_size",
            ],
        ),
        (
            "max_workers = 1\nreactors = \"many\"",
            [
                "line 2 (`reactors = \"many\"`)",
                "invalid type: string \"many\"",
                "and must be a whole number, without quotes",
            ],
        ),
        (
            "reactors = -1",
            ["line 1", "integer `-1`", "must be a whole number"],
        ),
        (
            "reactors = 1.5",
            ["line 1", "floating point `1.5`", "must be a whole number"],
        ),
        (
            "listen = \"::\"",
            ["line 1", "string \"::\"", "must be a list, such as"],
        ),
        (
            "log = 3",
            ["line 1", "integer `3`", "must be a quoted string"],
        ),
        (
            "iwarp.crc = 1",
            ["line 1", "integer `1`", "must be true or false"],
        ),
        ("memory = 1", ["line 1", "integer `1`", "must be a table"]),
        (
            "\nlog = \"verbose\"",
            [
                "line 2: log is \"verbose\"",
                "must be a level",
                "such as info",
            ],
        ),
        (
            "log_format = \"xml\"",
            ["line 1", "\"xml\"", "\"text\" or \"json\""],
        ),
        (
            "busy_poll = 50",
            [
                "line 1 (`busy_poll = 50`)",
                "busy_poll is 50, and must be",
                "a time with its unit, such as \"50 us\"",
            ],
        ),
        (
            "[acceptor]\nidle_timeout = 5 # s",
            [
                "line 2",
                "idle_timeout is 5, and must be",
                "a time with its unit, such as \"5 s\"",
            ],
        ),
        (
            "acceptor = {idle_timeout = 5}",
            [
                "line 1",
                "invalid type: integer `5`, and must be",
                "a time with its unit",
            ],
        ),
        (
            "memory_limit = \"64 MB\"",
            [
                "line 1",
                "`memory_limit = \"64 MB\"`",
                "KiB, MiB, GiB or TiB",
            ],
        ),
        (
            "acceptor.max_send_size = \"4 GiB\"",
            [
                "line 1",
                "`acceptor.max_send_size = \"4 GiB\"`",
                "less than 4 GiB",
            ],
        ),
        (
            "listen = [\n  \"0.0.0.0:5445\",\n  \"localhost:5445\",\n]",
            [
                "line 3 (`\"localhost:5445\",`): \"localhost:5445\"",
                "an address is numeric",
                "\"10.0.0.1\"",
            ],
        ),
        (
            "reactors = 3\nreactors = 4",
            ["line 2", "duplicate key", ""],
        ),
        ("[memory", ["line 1", "`[memory`", "unclosed"]),
        ("listen = [", ["line 1", "unclosed array", "expected `]`"]),
        (
            "# none\n\nreactors = 65",
            ["line 3: reactors", "is 65", "must be 1 to 64"],
        ),
        (
            "[memory]\n[memory.bulk]\nlongest_run = 3",
            [
                "line 3: memory.bulk.longest_run",
                "is 3",
                "must be at least 128",
            ],
        ),
        (
            "acceptor.max_fragmented_size = \"2 MiB\"\nmemory.send.longest_run = 128",
            [
                "memory.send.longest_run is 128",
                "at least 256",
                "acceptor.max_fragmented_size of 2 MiB",
            ],
        ),
    ] {
        let error = error(text);
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
}

#[test]
fn addresses_have_the_port_of_smb_direct_unless_they_name_one() {
    for (text, address) in [
        ("10.0.0.1", "10.0.0.1:5445"),
        ("10.0.0.1:0", "10.0.0.1:0"),
        ("::", "[::]:5445"),
        ("[::1]", "[::1]:5445"),
        ("[::1]:445", "[::1]:445"),
    ] {
        assert_eq!(parse_address(text, PORT).unwrap().to_string(), address);
    }
    for bad in ["", "host", "10.0.0.1:", "10.0.0.1:65536", "[10.0.0.1"] {
        let error = parse_address(bad, PORT).unwrap_err().to_string();
        assert!(error.starts_with(&format!("\"{bad}\": ")), "{error}");
    }
}

#[test]
fn units_grow_with_the_largest_message_and_transfer() {
    let text = "[acceptor]\nmax_fragmented_size = \"18 MiB\"\nmax_read_write_size = \"16 MiB\"";
    let settings = Settings::parse(text).expect("the settings");
    let memory = settings.broker.memory;
    assert_eq!(memory.send.unit_length, 16 << 10);
    assert_eq!(memory.receive.unit_length, 16 << 10);
    assert_eq!(memory.bulk.unit_length, 128 << 10);
    let text = format!("{text}\n[memory]\nsend.unit_length = \"256 KiB\"");
    let settings = Settings::parse(&text).expect("the settings");
    assert_eq!(settings.broker.memory.send.unit_length, 256 << 10);
}

#[test]
fn a_file_has_a_limit_and_is_text() {
    let mut longest = vec![b'#'; Settings::LONGEST_FILE];
    assert_eq!(Settings::parse_file(&longest), Ok(Settings::default()));
    longest.push(b'\n');
    assert_eq!(Settings::parse_file(&longest), Err(SettingsError::TooLong));
    let said = SettingsError::TooLong.to_string();
    assert!(said.contains("longer than 1 MiB"), "{said}");
    let binary = b"reactors = 1\n# \xff\n";
    assert_eq!(
        Settings::parse_file(binary),
        Err(SettingsError::NotText { line: 2 })
    );
    let few = Settings::parse_file(b"reactors = 1\n").expect("the settings");
    assert_eq!(few.broker.reactors, 1);
}
