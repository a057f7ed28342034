// SPDX-License-Identifier: GPL-2.0-or-later

//! A user of a server, who uses the library.

use smb::connection::EncryptionMode;
use smb::{Connection, ConnectionConfig, Dialect, Guid, Session, Tree, UncPath};
use smb_rs::{Carried, SmbDirect};
use sspi::{AuthIdentity, Username};

use instruments::samba::{PASSWORD, SHARE, Server};

/// The server's name, as the library puts it into paths.
const HOST: &str = "127.0.0.1";

/// A session and one of its trees. The fields are dropped in this order.
pub(crate) struct User {
    pub(crate) tree: Tree,
    pub(crate) session: Session,
    pub(crate) connection: Connection,
    /// What has passed through the transport.
    pub(crate) carried: Carried,
}

/// Makes a configuration that offers only this dialect.
pub(crate) fn config(dialect: Dialect) -> ConnectionConfig {
    ConnectionConfig {
        min_dialect: Some(dialect),
        max_dialect: Some(dialect),
        encryption_mode: EncryptionMode::Allowed,
        // A connection over RDMA begins with SMB 2 ([MS-SMB2] 3.2.4.2.2.2).
        smb2_only_negotiate: true,
        timeout: Some(instruments::daemon::TIMEOUT),
        ..ConnectionConfig::default()
    }
}

/// Returns the user that logs in.
pub(crate) fn identity(server: &Server, password: &str) -> AuthIdentity {
    AuthIdentity {
        username: Username::parse(&server.user).expect("a name"),
        password: password.to_owned().into(),
    }
}

/// Makes a connection on which SMB has been negotiated.
pub(crate) fn connect(
    server: &Server,
    client: Guid,
    config: ConnectionConfig,
) -> (Connection, Carried) {
    assert!(server.places_directly, "an smbd with SMB Direct is needed");
    let transport = SmbDirect::to(server.smb_direct).expect("SMB Direct");
    let carried = transport.carried();
    let connection = Connection::from_transport(Box::new(transport), HOST, client, config);
    (connection.expect("a negotiation"), carried)
}

impl User {
    /// Logs in and connects to the share.
    pub(crate) fn new(server: &Server, config: ConnectionConfig) -> Self {
        let (connection, carried) = connect(server, Guid::generate(), config);
        let session = connection.authenticate(identity(server, PASSWORD));
        let session = session.expect("a session");
        let share = UncPath::new(HOST).and_then(|path| path.with_share(SHARE));
        let tree = session.tree_connect(&share.expect("a path"));
        Self {
            tree: tree.expect("a tree"),
            session,
            connection,
            carried,
        }
    }
}
