// SPDX-License-Identifier: GPL-2.0-or-later

//! Runs the commands of the guides in `docs` that need a real smbd.

use instruments::guides::{blocks, program};
use instruments::samba::Server;

#[test]
fn commands_of_the_guides_show_an_smbd_with_smb_direct() {
    let server = Server::start();
    if !server.places_directly {
        println!("this smbd has no SMB Direct");
        return;
    }
    let directory = server.files.parent().expect("a directory");
    let programs = directory.join("programs");
    std::fs::create_dir(&programs).expect("a directory");
    let (testparm, smbd) = (server.program("testparm"), server.program("smbd"));
    let config = server.config().display();
    let script = format!("exec '{}' \"$@\" '{config}'", testparm.display());
    program(&programs, "testparm", &script);
    let script = format!("exec '{}' \"$@\"", smbd.display());
    program(&programs, "smbd", &script);
    let blocks = blocks("run-samba");
    assert!(blocks.len() > 1, "{}", blocks.len());
    for block in &blocks {
        let output = block.run(&programs);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{block}: {output:?}");
        assert!(said.contains("WITH_SMBDIRECT"), "{block}: {said}");
        assert!(!said.contains("WARNING"), "{block}: {said}");
    }
}
