// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests clients that disappear in the middle of something.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use instruments::client::{
    Channel, Command, Connection, Create, Disposition, Error, FileId, Memory, NtStatus, Request,
    Write,
};
use smbdirect::fabric::Access;

use super::client::{Client, Rest, bind, config, content, get, number, put, send_get, send_put};
use crate::sessions::credentials;
use instruments::daemon::TIMEOUT;
use instruments::samba::Server;

/// How often each step is interrupted.
const ROUNDS: usize = 50;

/// The path from a client to a server, until it is cut.
struct Cable {
    address: SocketAddr,
    ends: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Cable {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let ends = Arc::new(Mutex::new(Vec::new()));
        let carried = ends.clone();
        let thread = std::thread::spawn(move || carry(&listener, server, &carried));
        Self {
            address,
            ends,
            thread: Some(thread),
        }
    }

    /// Cuts the cable: from now on neither side hears the other.
    fn cut(mut self) {
        for end in self.ends.lock().expect("its ends").iter() {
            // The server may have closed it first.
            let _ = end.shutdown(Shutdown::Both);
        }
        // The copying was interrupted on purpose.
        let _ = self.thread.take().expect("a thread").join();
    }
}

/// Carries the data of one connection.
fn carry(
    listener: &TcpListener,
    server: SocketAddr,
    ends: &Mutex<Vec<TcpStream>>,
) -> io::Result<()> {
    let (client, _) = listener.accept()?;
    let server = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = (client.try_clone()?, client.try_clone()?);
    let (mut from_server, mut to_server) = (server.try_clone()?, server.try_clone()?);
    ends.lock().expect("its ends").extend([client, server]);
    std::thread::scope(|scope| {
        scope.spawn(move || io::copy(&mut from_server, &mut to_client));
        io::copy(&mut from_client, &mut to_server).map(drop)
    })
}

/// Sends SESSION_SETUP with the first message of NTLM ([MS-NLMP] 2.2.1.1), which asks for a challenge.
fn half_a_login(connection: &mut Connection) {
    let mut token = b"NTLMSSP\0\x01\0\0\0".to_vec();
    token.extend(0x6008_8215_u32.to_le_bytes());
    token.resize(32, 0);
    let mut body = 25_u16.to_le_bytes().to_vec();
    body.extend([0, 1]);
    body.resize(12, 0);
    body.extend(0x58_u16.to_le_bytes());
    body.extend(u16::try_from(token.len()).expect("short").to_le_bytes());
    body.resize(24, 0);
    body.extend(token);
    let response = connection.exchange(&Request::raw(Command::SESSION_SETUP, 0, body));
    let status = response.expect("a response").status();
    assert_eq!(status, NtStatus::MORE_PROCESSING_REQUIRED);
}

fn log_in(server: &Server, connection: &mut Connection) -> u32 {
    connection.log_in(&credentials(server)).expect("a session");
    let tree = connection.tree_connect(&server.share_path());
    tree.expect("a tree")
}

fn open_a_file(server: &Server, connection: &mut Connection) -> (u32, FileId) {
    let tree = log_in(server, connection);
    let name = format!("gone-{}", number());
    let how = Create::file(Disposition::Create);
    let file = connection.create(tree, &name, &how).expect("a file").file;
    (tree, file)
}

/// Sends a WRITE, but not its data.
fn begin_to_write(server: &Server, connection: &mut Connection) {
    let (tree, file) = open_a_file(server, connection);
    send_put(connection, tree, file, 0, &content(1, 8 << 20)).expect("sent");
    // The server asks for the data by about this time.
    std::thread::sleep(Duration::from_millis(5));
}

/// Sends a READ of more data than the network holds, and does not take the data.
fn begin_to_read(server: &Server, connection: &mut Connection) {
    let (tree, file) = open_a_file(server, connection);
    put(connection, tree, file, 0, &content(1, 1 << 20)).expect("a WRITE");
    connection
        .set_end_of_file(tree, file, 8 << 20)
        .expect("longer");
    for _ in 0..3 {
        send_get(connection, tree, file, 0, 8 << 20).expect("sent");
    }
    std::thread::sleep(Duration::from_millis(5));
}

/// Sends a CHANGE_NOTIFY, which is answered only when something changes.
fn wait_for_changes(server: &Server, connection: &mut Connection) {
    let tree = log_in(server, connection);
    let root = connection.create(tree, "", &Create::directory());
    let root = root.expect("the root").file;
    let mut body = 32_u16.to_le_bytes().to_vec();
    body.extend([0, 0]);
    body.extend(4096_u32.to_le_bytes());
    body.extend(root.0);
    // Watch for changes of security, which do not happen here.
    body.extend(0x100_u32.to_le_bytes());
    body.extend([0; 4]);
    let request = Request::raw(Command::CHANGE_NOTIFY, tree, body);
    let id = connection.send(&request).expect("sent");
    assert!(connection.is_pending(id, TIMEOUT).expect("an answer"));
}

/// Sends a LOCK that waits for another lock.
fn wait_for_a_lock(server: &Server, connection: &mut Connection) {
    let (tree, file) = open_a_file(server, connection);
    let how = Create::file(Disposition::OpenIf);
    let name = format!("locked-{}", number());
    let holder = connection.create(tree, &name, &how).expect("a file").file;
    let waiter = connection.create(tree, &name, &how).expect("a file").file;
    let lock = |file: FileId| {
        let mut body = 48_u16.to_le_bytes().to_vec();
        body.extend(1_u16.to_le_bytes());
        body.extend([0; 4]);
        body.extend(file.0);
        body.extend(0_u64.to_le_bytes());
        body.extend(100_u64.to_le_bytes());
        // An exclusive lock, which waits.
        body.extend(2_u32.to_le_bytes());
        body.extend([0; 4]);
        Request::raw(Command::LOCK, tree, body)
    };
    connection.call(&lock(holder)).expect("a lock");
    let id = connection.send(&lock(waiter)).expect("sent");
    assert!(connection.is_pending(id, TIMEOUT).expect("an answer"));
    let _ = file;
}

#[test]
fn a_client_that_is_gone_in_the_middle_of_any_step_leaves_nothing_behind() {
    let server = Server::start();
    let before = Rest::of(&server);
    type Step = fn(&Server, &mut Connection);
    let steps: [(&str, Step); 9] = [
        ("after NEGOTIATE", |_, _| {}),
        ("after half a login", |_, connection| {
            half_a_login(connection);
        }),
        ("after the login", |server, connection| {
            log_in(server, connection);
        }),
        ("with a file", |server, connection| {
            open_a_file(server, connection);
        }),
        ("during an RDMA READ", begin_to_write),
        ("during an RDMA WRITE", begin_to_read),
        ("with a notify", wait_for_changes),
        ("with a lock", wait_for_a_lock),
        ("with all of it", |server, connection| {
            wait_for_a_lock(server, connection);
            begin_to_read(server, connection);
            begin_to_write(server, connection);
        }),
    ];
    for round in 0..ROUNDS {
        let (step, doing) = steps[round % steps.len()];
        println!("round {round}: {step}");
        let cable = Cable::to(server.smb_direct);
        let connection = Connection::smb_direct(cable.address, config());
        let mut connection = connection.expect("SMB Direct");
        doing(&server, &mut connection);
        cable.cut();
        drop(connection);
        for entry in std::fs::read_dir(&server.files).expect("the share") {
            // smbd may still have the file open; then the next round finds it.
            let _ = std::fs::remove_file(entry.expect("a file").path());
        }
    }
    before.wait(&server);
}

#[test]
fn a_client_that_loses_one_channel_goes_on_with_the_other() {
    let server = Server::start();
    let before = Rest::of(&server);
    let mut client = Client::connect(&server);
    let file = client.create("two-channels");
    let data = content(7, 8 << 20);
    for round in 0..8 {
        let cable = Cable::to(server.smb_direct);
        let other = client.tcp.config().clone();
        let mut direct = Connection::smb_direct(cable.address, other).expect("SMB Direct");
        direct
            .bind(&client.tcp, &credentials(&server))
            .expect("a second channel");
        let offset = (round * data.len()) as u64;
        send_put(&mut direct, client.tree, file, offset, &data).expect("sent");
        cable.cut();
        drop(direct);
        let count = client
            .tcp
            .write(client.tree, file, offset, &data[..1 << 20]);
        assert_eq!(count.expect("a WRITE"), 1 << 20);
        let read = client.get(file, offset, 1 << 20).expect("a READ");
        assert!(read == data[..1 << 20], "round {round}");
    }
    drop(client);
    before.wait(&server);
}

#[test]
fn a_client_that_loses_its_first_channel_goes_on_with_the_second() {
    let server = Server::start();
    let before = Rest::of(&server);
    let mut client = Client::connect(&server);
    let file = client.create("second-channel");
    let Client {
        tcp,
        mut direct,
        tree,
    } = client;
    let data = content(8, 8 << 20);
    let id = send_put(&mut direct, tree, file, 0, &data).expect("sent");
    drop(tcp);
    let written = direct.wait(id).and_then(|answer| answer.ok()?.written());
    assert_eq!(written.expect("a WRITE") as usize, data.len());
    let read = get(&mut direct, tree, file, 0, data.len());
    assert!(read.expect("a READ") == data);
    direct.close(tree, file).expect("a close");
    direct.log_off().expect("a logoff");
    drop(direct);
    before.wait(&server);
}

#[test]
fn a_client_that_deregisters_memory_too_early_loses_only_that_channel() {
    let server = Server::start();
    let mut client = Client::connect(&server);
    let file = client.create("taken-away");
    for _ in 0..4 {
        let (direct, tree) = (&mut client.direct, client.tree);
        let source = direct.register(&Memory::zeroed(1 << 20), Access::RemoteRead);
        let source = source.expect("memory");
        let descriptors = [source.descriptor()];
        let write = Write::direct(file, 0, 1 << 20, Channel::RdmaV1, &descriptors);
        let id = direct.send(&write.request(tree)).expect("sent");
        direct.deregister(&source).expect("a registration");
        let ended = direct.wait(id);
        assert!(matches!(ended, Err(Error::Closed(_))), "{ended:?}");
        client.tcp.echo().expect("the client's smbd still runs");
        client.direct = bind(&server, &client.tcp);
        client.put(file, 0, b"there").expect("a WRITE");
    }
}
