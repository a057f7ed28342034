// SPDX-License-Identifier: GPL-2.0-or-later

//! Chooses the status that a worker gets for an end or an error that the transport reports.

use crate::device::Status;
use crate::fabric::{self, CauseKind, FabricError, WrError};
use crate::proto::ProtocolError;
use crate::transport::{CallFailed, CloseReason, SendError};

/// Returns the status for the end of a connection.
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

/// Returns the status for the end of an operation that the transport had taken.
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

/// Returns the status for an operation that the transport did not take.
#[must_use]
pub const fn of_send_error(error: SendError) -> Status {
    match error {
        // A connection that a shard knows, but that is not established, has ended or is being closed.
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

/// Returns the status for memory that could not be registered.
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
