// SPDX-License-Identifier: GPL-2.0-or-later

//! Sessions: logs in, uses a session on another connection, logs off ([MS-SMB2] 3.2.4.2, 3.2.5.3).

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use ntlmssp::Ntlm;
use smb_msg::{NegotiateCapabilities, SessionSecurityMode, SessionSetupRequest, SetupRequestFlags};

use super::bytes::u16_at;
use super::keys::{Key, Purpose, derive};
use super::sealing::Sealer;
use super::signing::Signer;
use super::{Command, Connection, Error, NtStatus, Protection, Request, Response, Result};

/// In the flags of a SESSION_SETUP response.
const GUEST: u16 = 0x1;
const ANONYMOUS: u16 = 0x2;
const ENCRYPT: u16 = 0x4;

/// AUTHENTICATE_MESSAGE of an anonymous user ([MS-NLMP] 2.2.1.3, 3.1.5.1.2): no names, no response, no key.
const ANONYMOUS_TOKEN: &[u8; 65] = b"NTLMSSP\0\x03\0\0\0\
    \x01\0\x01\0\x40\0\0\0\
    \0\0\0\0\x41\0\0\0\
    \0\0\0\0\x41\0\0\0\
    \0\0\0\0\x41\0\0\0\
    \0\0\0\0\x41\0\0\0\
    \0\0\0\0\x41\0\0\0\
    \x01\x0a\x08\0\
    \0";

/// The user that logs in.
#[derive(Clone)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// The user's domain; if empty, the server's own.
    pub domain: String,
}

impl fmt::Debug for Credentials {
    /// Leaves out the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?}\\{:?})", self.domain, self.user)
    }
}

/// The state that all connections of a session share.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    /// The signer of the first connection, which signs the SESSION_SETUPs that bind others.
    signer: Option<Signer>,
    pub(super) sealer: Option<Sealer>,
    encrypt: bool,
    /// Trees on shares that require encryption.
    sealed_trees: RwLock<HashSet<u32>>,
    /// The session's keys: for signatures on the first connection, and for encryption in both directions.
    keys: Vec<Key>,
}

impl Session {
    /// Returns whether requests on a tree are encrypted.
    pub(super) fn encrypts(&self, tree_id: u32) -> bool {
        let trees = self.sealed_trees.read();
        self.encrypt
            || trees
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&tree_id)
    }

    /// Encrypts requests on a tree from now on.
    pub(super) fn seal_tree(&self, tree_id: u32) {
        let trees = self.sealed_trees.write();
        trees
            .unwrap_or_else(PoisonError::into_inner)
            .insert(tree_id);
    }
}

/// A session on one connection.
#[derive(Debug)]
pub(super) struct OnConnection {
    pub(super) session: Arc<Session>,
    /// Signs with this connection's own key; a guest has none.
    pub(super) signer: Option<Signer>,
    /// Whether requests are signed.
    pub(super) sign: bool,
}

impl Connection {
    /// Makes a session.
    pub fn log_in(&mut self, credentials: &Credentials) -> Result<()> {
        self.make_session(Some(credentials))
    }

    /// Makes an anonymous session, which is neither signed nor encrypted; shares for guests accept it.
    pub fn log_in_anonymously(&mut self) -> Result<()> {
        self.make_session(None)
    }

    fn make_session(&mut self, credentials: Option<&Credentials>) -> Result<()> {
        self.session = None;
        let (response, key) = self.authenticate(credentials, false).inspect_err(|_| {
            self.session = None;
        })?;
        let flags = u16_at(response.checked(9)?, 2).unwrap_or(0);
        let id = response.header.session_id;
        let signer = self.signer(&key);
        let mut keys = vec![signer.key().clone()];
        // smbd flags a guest, but not an anonymous login, so the client itself checks whether the login is anonymous.
        let keyless = credentials.is_none() || flags & (GUEST | ANONYMOUS) != 0;
        let sealer = self.negotiated.cipher.map(|cipher| {
            let derive = |purpose| {
                let (dialect, bits) = (self.negotiated.dialect, cipher.key_bits());
                derive(&key.0, dialect, &self.session_preauth, purpose, bits)
            };
            let (to_server, to_client) = (derive(Purpose::ToServer), derive(Purpose::ToClient));
            let sealer = Sealer::new(cipher, id, &to_server, &to_client);
            keys.extend([to_server, to_client]);
            sealer
        });
        if !keyless && !signer.verify(&response.header, &response.message) {
            return Err(Error::Signature(Command::SESSION_SETUP, "wrong"));
        }
        if self.config.seal && keyless {
            return Err(Error::NoSession("encryption"));
        }
        if self.config.seal && sealer.is_none() {
            return Err(Error::NoCipher);
        }
        let session = Session {
            id,
            signer: (!keyless).then(|| signer.clone()),
            sealer: sealer.filter(|_| !keyless),
            encrypt: self.config.seal || flags & ENCRYPT != 0,
            sealed_trees: RwLock::default(),
            keys,
        };
        self.session = Some(OnConnection {
            session: Arc::new(session),
            signer: (!keyless).then_some(signer),
            sign: self.config.sign || self.negotiated.signing_required,
        });
        Ok(())
    }

    /// Uses the session of another connection on this one, too. Both must have the same client GUID and dialect, and
    /// `credentials` must be the ones that made the session.
    pub fn bind(&mut self, other: &Self, credentials: &Credentials) -> Result<()> {
        let session = other.shared_session()?;
        let signer = session
            .signer
            .clone()
            .ok_or(Error::NoSession("a binding"))?;
        // Until the new key exists, messages are signed with the session's.
        self.session = Some(OnConnection {
            session: session.clone(),
            signer: Some(signer),
            sign: true,
        });
        let bound = self
            .authenticate(Some(credentials), true)
            .and_then(|(response, key)| {
                let signer = self.signer(&key);
                if response.header.session_id != session.id {
                    return Err(response.malformed("it names another session"));
                }
                if !signer.verify(&response.header, &response.message) {
                    return Err(Error::Signature(Command::SESSION_SETUP, "wrong"));
                }
                Ok(signer)
            });
        match bound {
            Ok(signer) => {
                self.session = Some(OnConnection {
                    session,
                    signer: Some(signer),
                    sign: self.config.sign || self.negotiated.signing_required,
                });
                Ok(())
            }
            Err(error) => {
                self.session = None;
                Err(error)
            }
        }
    }

    /// Makes the signer of this connection, with a key derived from the key that authentication produced.
    fn signer(&self, key: &Key) -> Signer {
        let dialect = self.negotiated.dialect;
        let key = derive(
            &key.0,
            dialect,
            &self.session_preauth,
            Purpose::Signing,
            128,
        );
        Signer::new(self.negotiated.signing, key)
    }

    /// Exchanges SESSION_SETUPs. Returns the last response, whose signature has not been checked yet, and the key,
    /// which is all zeros for an anonymous login.
    fn authenticate(
        &mut self,
        credentials: Option<&Credentials>,
        bind: bool,
    ) -> Result<(Response, Key)> {
        self.session_preauth = self.preauth;
        let ntlm = Ntlm::new();
        let first = self.session_setup(ntlm.negotiate(), bind)?;
        if first.status() != NtStatus::MORE_PROCESSING_REQUIRED {
            return Err(first.refusal());
        }
        let body = first.checked(9)?;
        let (offset, length) = (u16_at(body, 4).unwrap_or(0), u16_at(body, 6).unwrap_or(0));
        let challenge = first.buffer(offset.into(), length.into())?;
        // The server may have wrapped the challenge, which begins with a fixed string ([MS-NLMP] 2.2.1.2).
        let start = challenge
            .windows(8)
            .position(|window| window == b"NTLMSSP\0");
        let challenge = start.map_or(&[][..], |start| challenge.split_at(start).1);
        let (token, key) = match credentials {
            Some(who) => ntlm
                .authenticate(challenge, &who.domain, &who.user, &who.password, "")
                .map_err(|error| Error::Ntlm(error.to_string()))?,
            None => (ANONYMOUS_TOKEN.to_vec(), [0; 16]),
        };
        if !bind {
            // The second request names the session that the first response created.
            let session = Session {
                id: first.header.session_id,
                signer: None,
                sealer: None,
                encrypt: false,
                sealed_trees: RwLock::default(),
                keys: Vec::new(),
            };
            self.session = Some(OnConnection {
                session: Arc::new(session),
                signer: None,
                sign: false,
            });
        }
        let last = self.session_setup(&token, bind)?.ok()?;
        Ok((last, Key(key.to_vec())))
    }

    fn session_setup(&mut self, token: &[u8], bind: bool) -> Result<Response> {
        let body = SessionSetupRequest::new(
            token.to_vec(),
            SessionSecurityMode::new()
                .with_signing_enabled(true)
                .with_signing_required(self.config.sign),
            SetupRequestFlags::new().with_binding(bind),
            NegotiateCapabilities::new(),
        );
        let request = Request::encode(Command::SESSION_SETUP, 0, "SESSION_SETUP", &body)?;
        let protection = if bind {
            Protection::Signed
        } else {
            Protection::Plain
        };
        self.exchange(&request.protected(protection))
    }

    /// Ends the session on all its connections.
    pub fn log_off(&mut self) -> Result<()> {
        self.call(&Request::logoff()?)?;
        self.session = None;
        Ok(())
    }

    /// Returns the keys of the session, and the key that signs on this connection: tests search for them where they
    /// must not be.
    #[must_use]
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let Some(on) = &self.session else {
            return Vec::new();
        };
        let own = on.signer.as_ref().map(Signer::key);
        let keys = on.session.keys.iter().chain(own);
        keys.map(|key| key.0.clone()).collect()
    }

    /// Returns the id of the session; 0 before a login.
    #[must_use]
    pub fn session_id(&self) -> u64 {
        self.session.as_ref().map_or(0, |on| on.session.id)
    }

    /// Returns whether requests on any tree are encrypted.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.session.as_ref().is_some_and(|on| on.session.encrypt)
    }

    /// Returns whether requests on a tree are encrypted: either the whole session is, or the share requires it.
    #[must_use]
    pub fn is_tree_sealed(&self, tree_id: u32) -> bool {
        let on = self.session.as_ref();
        on.is_some_and(|on| on.session.encrypts(tree_id))
    }

    /// Returns whether requests are signed.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|on| on.sign && on.signer.is_some())
    }
}
