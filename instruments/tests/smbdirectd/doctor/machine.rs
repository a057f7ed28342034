// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the doctor with what a real kernel says: on machines of their own, which are network, mount and process
//! namespaces, with a firewall, bridges, and an smbd in a container. Only root can make these.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use instruments::daemon::{Daemon, Directory, SMBDIRECTCTL, Setup};
use smbdirect::device::{Handle, Role};

use super::{doctor, text};

/// The variable that is set for a test which runs in its own namespaces.
const INSIDE: &str = "SMBDIRECT_TEST_MACHINE";

pub(super) fn skip(what: &str) {
    // Do not use a macro: the test harness captures its output.
    let text = format!("\nSKIPPED: {what}\n");
    std::io::stderr()
        .write_all(text.as_bytes())
        .expect("standard error");
}

fn has(program: &str) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default());
    env::split_paths(&path).any(|place| place.join(program).exists())
}

fn run(line: &str) -> bool {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    let status = command.args(words).status();
    status.is_ok_and(|status| status.success())
}

/// Runs a command line without quotes, which must succeed.
fn must(line: &str) {
    assert!(run(line), "{line}");
}

/// Runs the test of this name in a network and a mount namespace of its own, if the programs that it needs are here.
fn on_a_machine_of_its_own(name: &str, programs: &[&str], test: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        // What a namespace's sysfs shows of interfaces depends on where it was mounted.
        must("mount -t sysfs none /sys");
        must("ip link set lo up");
        return test();
    }
    if !rustix::process::geteuid().is_root() {
        return skip(&format!("{name}: needs root"));
    }
    if let Some(missing) = ["unshare", "ip"].iter().chain(programs).find(|it| !has(it)) {
        return skip(&format!("{name}: {missing} is not installed"));
    }
    let unshare = |program: &str, arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", program]);
        command
            .args(arguments)
            .env(INSIDE, "1")
            .output()
            .expect("unshare(1) of util-linux")
    };
    let probe = unshare("mount", &["-t", "sysfs", "none", "/sys"]);
    if !probe.status.success() {
        let why = String::from_utf8_lossy(&probe.stderr).into_owned();
        return skip(&format!("{name}: no namespaces: {why}"));
    }
    let program = env::current_exe().expect("the path of the test");
    let name = format!("doctor::machine::{name}");
    let output = unshare(
        program.to_str().expect("a path"),
        &["--exact", &name, "--nocapture"],
    );
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{error}"
    );
    if let Some((_, skipped)) = error.split_once("SKIPPED: ") {
        skip(skipped.trim_end());
    }
}

/// Starts a daemon on the port that firewalls know, and a listener.
fn serve() -> (Daemon, Handle) {
    let address: SocketAddr = "0.0.0.0:5445".parse().expect("an address");
    let setup = Setup {
        listen: Some(address),
        ..Setup::default()
    };
    let directory = Directory::new();
    directory.file("smbdirectd.toml", "claim_timeout = \"100 ms\"");
    let daemon = Daemon::start_in(directory, &setup);
    let listener = Handle::attach(&daemon.control, Role::Listener, None).expect("a listener");
    daemon.wait_for_status(|status| status["processes"][0]["role"] == "listener");
    (daemon, listener)
}

/// Adds an interface with this address, which is not connected to anything.
fn add_interface(name: &str, address: &str) {
    must(&format!(
        "ip link add {name} type veth peer name {name}-peer"
    ));
    must(&format!("ip link set {name}-peer up"));
    must(&format!("ip link set {name} up"));
    must(&format!("ip address add {address} dev {name}"));
}

/// Replaces all rules of the firewall.
fn set_rules(rules: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nft");
    let text = format!("flush ruleset\n{rules}\n");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(text.as_bytes()).expect("nft reads");
    drop(input);
    assert!(child.wait().expect("nft").success(), "{rules}");
}

#[test]
fn nftables_is_in_the_way() {
    on_a_machine_of_its_own("nftables_is_in_the_way", &["nft"], || {
        add_interface("eth7", "10.9.0.1/24");
        let (daemon, _listener) = serve();
        let hook = "type filter hook input priority filter;";
        let drops = "warn nftables drops incoming packets by default, and has no rule that accepts TCP port 5445";
        let refuses = "warn a rule of nftables refuses TCP port 5445";
        let accepts = "ok nftables accepts TCP port 5445";
        let none = "ok no default of nftables refuses TCP port 5445";
        for (policy, rules, line) in [
            ("accept", "", none),
            ("drop", "", drops),
            ("drop", "tcp dport 445 accept", drops),
            ("drop", "tcp dport { 445, 5445 } accept", accepts),
            (
                "drop",
                "tcp dport 5000-6000 ct state new counter accept",
                accepts,
            ),
            (
                "drop",
                "meta l4proto { tcp, udp } th dport 5445 accept",
                accepts,
            ),
            ("drop", "tcp dport @smb accept", accepts),
            (
                "drop",
                "tcp dport vmap { 22 : accept, 5445 : accept }",
                accepts,
            ),
            ("drop", "jump services", accepts),
            (
                "drop",
                "iifname \"lo\" accept; ct state established,related accept",
                drops,
            ),
            (
                "drop",
                "ip saddr 10.0.0.0/8 accept",
                "ok nftables accepts all packets from a part of the network",
            ),
            ("accept", "tcp dport 5445 drop", refuses),
            ("accept", "tcp dport 5445 reject with tcp reset", refuses),
            (
                "accept",
                "tcp dport 22 accept; reject with icmpx type admin-prohibited",
                drops,
            ),
            ("accept", "tcp dport 22 accept; counter drop", drops),
        ] {
            set_rules(&format!(
                "table inet test {{\n set smb {{ type inet_service; elements = {{ 445, 5445 }} }}\n \
                 chain services {{ tcp dport 5445 accept; }}\n \
                 chain input {{ {hook} policy {policy}; {rules}; }}\n \
                 chain output {{ type filter hook output priority filter; tcp dport 5445 accept; }}\n}}"
            ));
            let said = text(&doctor(&daemon.control, &[]));
            assert!(said.contains(line), "{policy}, {rules}: {line}: {said}");
        }
        set_rules("");
        let said = text(&doctor(&daemon.control, &[]));
        assert!(said.contains(none), "{said}");
        // A container without CAP_NET_ADMIN cannot read the rules, even as root.
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
        command
            .arg(&*SMBDIRECTCTL)
            .args(["doctor", "--control"])
            .arg(&daemon.control);
        let said = text(&command.output().expect("setpriv(1) of util-linux"));
        assert!(
            said.contains("- the rules were not read: nft failed"),
            "{said}"
        );
    });
}

/// Makes an RDMA device that belongs to an interface, in place of the kernel's sysfs. The interfaces are the kernel's.
fn fake_rdma(interface: &str, state: &str) {
    if !Path::new("/sys/real").exists() {
        must("mount -t tmpfs none /sys");
        fs::create_dir("/sys/real").expect("a directory");
        must("mount -t sysfs none /sys/real");
        fs::create_dir("/sys/class").expect("a directory");
        symlink("/sys/real/class/net", "/sys/class/net").expect("a link");
    }
    let port = Path::new("/sys/class/infiniband/mlx5_0/ports/1");
    fs::create_dir_all(port.join("gid_attrs/ndevs")).expect("a directory");
    for (name, text) in [
        ("state", state),
        ("link_layer", "Ethernet"),
        ("gid_attrs/ndevs/0", interface),
        ("../../node_type", "1: CA"),
    ] {
        fs::write(port.join(name), format!("{text}\n")).expect("a file");
    }
}

#[test]
fn an_address_or_an_adapter_is_in_the_wrong_place() {
    on_a_machine_of_its_own(
        "an_address_or_an_adapter_is_in_the_wrong_place",
        &[],
        || {
            add_interface("eth7", "10.9.0.1/24");
            must("ip link add docker0 type bridge");
            must("ip link set docker0 up");
            must("ip address add 172.17.0.1/16 dev docker0");
            let (daemon, _listener) = serve();
            let has_both = |status: &serde_json::Value| {
                let text = status["addresses"].to_string();
                text.contains("10.9.0.1:5445") && text.contains("172.17.0.1:5445")
            };
            daemon.wait_for_status(has_both);
            let examine = || text(&doctor(&daemon.control, &[]));
            let said = examine();
            for line in [
                "ok smbdirectd serves 10.9.0.1:5445 (eth7) by iWARP in software",
                "warn smbdirectd serves 172.17.0.1:5445 of docker0, which other machines cannot reach",
                "ok no RDMA device",
            ] {
                assert!(said.contains(line), "{line}: {said}");
            }
            fake_rdma("eth7", "4: ACTIVE");
            let said = examine();
            for line in [
                "FAIL 10.9.0.1:5445 is on mlx5_0, but software iWARP serves it: clients try RDMA port 445 there",
                "warn mlx5_0 port 1 is not used",
            ] {
                assert!(said.contains(line), "{line}: {said}");
            }
            assert!(!said.contains("part of the"), "{said}");
            must("ip link set eth7 master docker0");
            let said = examine();
            let line = "warn eth7 of mlx5_0 port 1 is part of the bridge docker0";
            assert!(said.contains(line), "{said}");
            must("ip link set eth7 nomaster");
            must("ip address del 10.9.0.1/24 dev eth7");
            daemon.wait_for_status(|status| !has_both(status));
            let said = examine();
            let line = "warn mlx5_0 port 1 is not used: its interface eth7 has no address";
            assert!(said.contains(line), "{said}");
            fake_rdma("eth7", "1: DOWN");
            let said = examine();
            assert!(said.contains("warn mlx5_0 port 1 is DOWN"), "{said}");
            fs::create_dir("/sys/class/ksmbd-control").expect("a directory");
            let said = examine();
            assert!(
                said.contains("warn ksmbd, the kernel's own SMB server, is loaded"),
                "{said}"
            );
            assert!(said.contains("-> systemctl stop ksmbd"), "{said}");
            // These kinds of interfaces need modules that this kernel may not have.
            if !run("ip link add bond7 type bond") {
                return skip("part of a bond: this kernel has no bonds");
            }
            must("ip link set eth7 down");
            must("ip link set eth7 master bond7");
            fake_rdma("eth7", "4: ACTIVE");
            let said = examine();
            assert!(
                said.contains("warn eth7 of mlx5_0 port 1 is part of the bond or team bond7"),
                "{said}"
            );
        },
    );
}

/// The control socket to which a test that is smbd in a container attaches.
const CONTROL: &str = "SMBDIRECT_TEST_CONTROL";

/// Runs in a container: attaches, says so, and stays until its standard input is closed.
#[test]
fn smbd_of_a_container() {
    let Some(control) = env::var_os(CONTROL) else {
        return;
    };
    let _listener = Handle::attach(Path::new(&control), Role::Listener, None).expect("a listener");
    std::io::stderr()
        .write_all(b"attached\n")
        .expect("standard error");
    let _ = std::io::stdin().read(&mut [0]);
}

/// Starts an smbd in a container that these options of unshare(1) make, and waits until it is attached.
fn in_a_container(daemon: &Daemon, options: &[&str], program: &str) -> Child {
    let mut command = Command::new("unshare");
    command.args(options).args(["sh", "-ec", program]);
    command.arg(env::current_exe().expect("the path of the test"));
    command
        .env(CONTROL, &daemon.control)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null());
    let mut child = command.spawn().expect("unshare(1) of util-linux");
    let mut said = Vec::new();
    let error = child.stderr.as_mut().expect("a pipe");
    let mut byte = [0];
    while !said.ends_with(b"attached\n") && error.read(&mut byte).is_ok_and(|count| count > 0) {
        said.extend(byte);
    }
    assert!(
        said.ends_with(b"attached\n"),
        "{}",
        String::from_utf8_lossy(&said)
    );
    child
}

#[test]
fn smbd_is_in_a_container() {
    on_a_machine_of_its_own("smbd_is_in_a_container", &[], || {
        const TEST: &str = "--exact doctor::machine::smbd_of_a_container --nocapture";
        let examine = |daemon: &Daemon| {
            let mut command = Command::new(&*SMBDIRECTCTL);
            command.args(["doctor", "--control"]).arg(&daemon.control);
            text(&command.output().expect("it runs"))
        };
        let start = || {
            let directory = Directory::new();
            directory.file("smbdirectd.toml", "claim_timeout = \"100 ms\"");
            Daemon::start_in(directory, &Setup::default())
        };
        let end = |mut child: Child| {
            drop(child.stdin.take());
            child.wait().expect("a child");
        };
        // The mount namespace has a program that is not on this machine.
        let daemon = start();
        let copy = format!("mount -t tmpfs none /mnt; cp \"$0\" /mnt/smbd; exec /mnt/smbd {TEST}");
        let child = in_a_container(&daemon, &["--mount"], &copy);
        let said = examine(&daemon);
        assert!(
            said.contains(&format!("ok smbd, process {}, is attached", child.id())),
            "{said}"
        );
        let line = format!(
            "- smbd was not examined: process {} runs in a container, or its program /mnt/smbd",
            child.id()
        );
        assert!(said.contains(&line), "{said}");
        assert!(said.contains("- smb.conf was not read: process"), "{said}");
        end(child);
        // With a process namespace, smbd is a descendant of this one, so its process is seen from here.
        let daemon = start();
        let options = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let child = in_a_container(&daemon, &options, &copy);
        let said = examine(&daemon);
        assert!(said.contains("is attached"), "{said}");
        assert!(said.contains("- smbd was not examined: process"), "{said}");
        // The doctor in that container cannot see the process number that smbdirectd reports, nor may it take another
        // process there for smbd.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command
            .arg(&*SMBDIRECTCTL)
            .args(["doctor", "--control"])
            .arg(&daemon.control);
        let said = text(&command.output().expect("unshare(1) of util-linux"));
        assert!(
            said.contains("cannot be seen from here: it runs outside of this container"),
            "{said}"
        );
        end(child);
    });
}

/// smbdirectd is in a container, and smbd is not.
#[test]
fn smbdirectd_is_in_a_container() {
    on_a_machine_of_its_own("smbdirectd_is_in_a_container", &[], || {
        let directory = Directory::new();
        let config = directory.file("smbdirectd.toml", "claim_timeout = \"100 ms\"");
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--kill-child"])
            .arg(&*instruments::daemon::SMBDIRECTD);
        command
            .args(["--listen", "127.0.0.1:0", "--config"])
            .arg(config);
        command
            .arg("--control")
            .arg(directory.control())
            .env_remove("NOTIFY_SOCKET");
        let mut child = command
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare(1) of util-linux");
        let end = std::time::Instant::now() + instruments::daemon::TIMEOUT;
        let listener = loop {
            match Handle::attach(&directory.control(), Role::Listener, None) {
                Ok(listener) => break listener,
                Err(status) => assert!(std::time::Instant::now() < end, "{status}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        let mut command = Command::new(&*SMBDIRECTCTL);
        command
            .args(["doctor", "--control"])
            .arg(directory.control());
        let said = text(&command.output().expect("it runs"));
        assert!(
            said.contains("ok smbd is attached, from a container"),
            "{said}"
        );
        let line = "- smbd was not examined: it runs in a container that cannot be seen from here";
        assert!(said.contains(line), "{said}");
        drop(listener);
        let _ = child.kill();
        let _ = child.wait();
    });
}
