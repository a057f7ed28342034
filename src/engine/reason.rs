//! What a worker is told of an end or an error that the transport reports, and what the log says of an end that the
//! broker brought about.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;

use super::admission::Limits;
use crate::device::Status;
use crate::fabric::{self, CauseKind, FabricError, WrError};
use crate::proto::ProtocolError;
use crate::transport::{CallFailed, CloseReason, SendError};

/// What the log says of a reason of the broker's own, which has this name.
#[must_use]
pub fn words(name: &str, limits: &Limits) -> String {
    match name {
        "too_many_connections" | "too_many_connections_of_source" => format!(
            "a newer one came, and max_connections = {} was reached",
            limits.max_connections
        ),
        "too_many_unauthenticated" | "too_many_unauthenticated_of_source" => format!(
            "a newer one came, no client had logged in on this one, and max_unauthenticated = {} was reached",
            limits.max_unauthenticated
        ),
        "login_timeout" => "no client logged in on it in time".to_owned(),
        "no_listener" => {
            "no smbd is attached: is smbd running, with smb direct = yes in smb.conf?".to_owned()
        }
        "first_request" => "its first message is not an SMB2 NEGOTIATE request".to_owned(),
        "first_request_timeout" => "its first request did not come in time".to_owned(),
        "claim_timeout" => "no smbd took it in time: see the log of smbd".to_owned(),
        "declined" => "smbd refused it: see the log of smbd".to_owned(),
        "listener_busy" => "smbd does not read its offers".to_owned(),
        "message_too_long" => "a message that is too long for the memory of its smbd".to_owned(),
        "too_many_unanswered" => {
            "its client has not logged in, and takes nothing of what it is sent".to_owned()
        }
        "no_queue" => "its smbd could not be given a queue".to_owned(),
        "no_random_numbers" => "the system has no random numbers".to_owned(),
        "worker_gone" => "its smbd has ended".to_owned(),
        "disconnected" => "smbd closed it".to_owned(),
        "stopping" => "smbdirectd stops".to_owned(),
        other => other.replace('_', " "),
    }
}

/// Why a connection ended.
#[must_use]
pub fn of_close(reason: &CloseReason) -> Status {
    match reason {
        CloseReason::Fabric(reason) => of_fabric_close(reason),
        CloseReason::Protocol(error) => match error {
            ProtocolError::NegotiationTimeout
            | ProtocolError::KeepaliveTimeout
            | ProtocolError::CreditTimeout
            | ProtocolError::MessageTimeout => Status::TimedOut,
            ProtocolError::Wire(_)
            | ProtocolError::Refused(_)
            | ProtocolError::OutOfTurn
            | ProtocolError::MessageTooLong
            | ProtocolError::CreditsExceeded
            | ProtocolError::SendCreditsOverflow
            | ProtocolError::FragmentedSizeExceeded
            | ProtocolError::RemainingMismatch => Status::Protocol,
        },
        CloseReason::Call(error) => match error {
            CallFailed::LocalProtection | CallFailed::Other => Status::Fabric,
            CallFailed::TooManyRegions | CallFailed::Os(_) => Status::System,
        },
        CloseReason::Aborted => Status::ClosedLocally,
        CloseReason::CloseTimeout | CloseReason::NotTaken | CloseReason::ReadsNotAnswered => {
            Status::TimedOut
        }
        CloseReason::NegotiationRefused => Status::Protocol,
        CloseReason::AddressGone => Status::Address,
        CloseReason::TooManyConnections
        | CloseReason::TooManyUnnegotiated
        | CloseReason::TooManyUnnegotiatedOfSource => Status::Limit,
    }
}

fn of_fabric_close(reason: &fabric::CloseReason) -> Status {
    use fabric::CloseReason as Reason;
    match reason {
        Reason::Local => Status::ClosedLocally,
        Reason::Peer => Status::ClosedByPeer,
        Reason::Reset | Reason::Refused => Status::Reset,
        Reason::ConnectTimeout => Status::TimedOut,
        Reason::TooManyPending => Status::Limit,
        Reason::AddressNotAllowed => Status::Address,
        Reason::ReceiverNotReady => Status::Protocol,
        Reason::RemoteAccess => Status::RemoteAccess,
        Reason::Provider(cause) => match cause.kind() {
            CauseKind::RemoteAccess => Status::RemoteAccess,
            CauseKind::ReceiverNotReady | CauseKind::Protocol => Status::Protocol,
            CauseKind::Device => Status::Fabric,
        },
        Reason::LocalProtection | Reason::DeviceGone | Reason::Injected | Reason::Os(_) => {
            Status::Fabric
        }
    }
}

/// How something ended that the transport had taken.
#[must_use]
pub const fn of_result(result: Result<(), WrError>) -> Status {
    match result {
        Ok(()) => Status::Ok,
        Err(WrError::Flushed) => Status::Flushed,
        Err(WrError::RemoteAccess) => Status::RemoteAccess,
        Err(WrError::LocalLength) => Status::Protocol,
        Err(WrError::Injected) => Status::Fabric,
    }
}

/// Why the transport did not take something.
#[must_use]
pub const fn of_send_error(error: SendError) -> Status {
    match error {
        // What is known to the broker and not established has ended, or is being closed.
        SendError::NotEstablished => Status::Flushed,
        SendError::QueueFull => Status::Again,
        SendError::TooLong => Status::TooLong,
        SendError::Empty => Status::Invalid,
        SendError::LocalProtection => Status::OutOfBounds,
        SendError::NoReads => Status::NoReads,
        SendError::DescriptorsTooShort => Status::DescriptorsTooShort,
        SendError::TooManyDescriptors | SendError::DescriptorWraps => Status::Descriptors,
    }
}

/// Why memory was not registered.
#[must_use]
pub const fn of_fabric_error(error: &FabricError) -> Status {
    match error {
        FabricError::NotConnected => Status::Flushed,
        FabricError::LocalProtection => Status::OutOfBounds,
        FabricError::QueueFull | FabricError::HeaderTooLong => Status::Fabric,
        FabricError::TooManyRegions | FabricError::Os { .. } | FabricError::Library(_) => {
            Status::System
        }
    }
}
