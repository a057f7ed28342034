// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests smbclient, which does not know SMB Direct, through `smbdirectctl bridge` without any configuration.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::channel::{device, disk, pattern, place};
use instruments::daemon::{SMBDIRECTCTL, stderr};
use instruments::samba::{PASSWORD, SHARE, Samba, Server, Setup};

/// Not a multiple of 8 MiB, the size of smbclient's writes.
const LENGTH: usize = (20 << 20) + 77;

/// A running bridge.
struct Bridge {
    child: Child,
    port: String,
}

impl Bridge {
    fn to(server: &Server) -> Self {
        let mut command = Command::new(&*SMBDIRECTCTL);
        command.args(["bridge", "--listen", "127.0.0.1:0"]);
        command.arg(server.smb_direct.to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a bridge");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut line).expect("a line");
        // The line is "listening on 127.0.0.1:4450, carrying to 192.0.2.1:5445".
        let port = line.split([':', ',']).nth(1).expect("a port").to_owned();
        Self { child, port }
    }

    /// Runs smbclient through the bridge.
    fn smbclient(&self, server: &Server, more: &[&str]) {
        let mut command = Command::new(Samba::from_environment().program("smbclient"));
        command.arg("-s").arg(server.directory().join("smb.conf"));
        command.args(["--option=client min protocol=SMB2", "-p", &self.port]);
        command.arg(format!("//127.0.0.1/{SHARE}"));
        command.arg("-U").arg(format!("{}%{PASSWORD}", server.user));
        let output = command.args(more).output().expect("smbclient runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", stderr(&output));
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_file_is_put_and_got_with_nothing_configured() {
    let server = device(Setup::default());
    let bridge = Bridge::to(&server);
    let (here, back) = (
        server.directory().join("here"),
        server.directory().join("back"),
    );
    let (here_name, back_name) = (here.display(), back.display());
    for (n, protection) in [
        &[][..],
        &["--client-protection=sign"],
        &["--client-protection=encrypt"],
    ]
    .into_iter()
    .enumerate()
    {
        let sent = pattern(LENGTH, n as u64);
        fs::write(&here, &sent).expect("a file");
        let put = format!("put {here_name} put-{n}");
        bridge.smbclient(&server, &[protection, &["-c", &put]].concat());
        assert!(disk(&server, &format!("put-{n}")) == sent, "{protection:?}");

        let there = pattern(LENGTH, 100 + n as u64);
        place(&server, &format!("get-{n}"), &there);
        let get = format!("get get-{n} {back_name}");
        bridge.smbclient(&server, &[protection, &["-c", &get]].concat());
        assert!(fs::read(&back).expect("a file") == there, "{protection:?}");
    }
}
