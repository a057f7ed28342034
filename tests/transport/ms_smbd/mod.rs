// SPDX-License-Identifier: GPL-2.0-or-later

//! The 42 cases of Microsoft's MS-SMBD test suite that use only SMB Direct, under the suite's names.
//!
//! Only the names and subjects come from that suite; the code is ours. A case drives a real acceptor, a
//! [`Transport`](smbdirect::transport::Transport) on iWARP over TCP, from outside: it sends bytes that it lays out
//! itself, not through our own endpoint, so it can break every rule and sees every field of the answers. See
//! [`harness`] for what all of them check.

#![allow(
    non_snake_case,
    reason = "the cases keep the names by which they are known"
)]

mod credit_management;
mod data_transfer;
mod harness;
mod messages;
mod negotiate;
mod peer;
mod upper;

use std::collections::BTreeSet;
use std::process::Command;

const CASES: [&str; 42] = [
    "credit_management::BVT_SmbdCreditMgmt_OperationWithMinimumCredits",
    "credit_management::SmbdCreditMgmt_ConsumeAllCreditServer_Timeout",
    "credit_management::SmbdCreditMgmt_ConsumeAllReceiveCredits",
    "credit_management::SmbdCreditMgmt_ConsumeAllSendCredits",
    "credit_management::SmbdCreditMgmt_NegativeParameter_CreditRequested",
    "credit_management::SmbdCreditMgmt_OperationWithLimitedCredits",
    "data_transfer::BVT_SmbdDataTransfer_Basic_SendModerateBytesData",
    "data_transfer::BVT_SmbdDataTransfer_Basic_SendSmallBytesOfData",
    "data_transfer::SmbdDataTransfer_IdleConnection_Client",
    "data_transfer::SmbdDataTransfer_IdleConnection_Server",
    "data_transfer::SmbdDataTransfer_IdleConnection_Server_Timeout",
    "data_transfer::SmbdDataTransfer_NegativeParameter_AgainstMaxFragmentedSize",
    "data_transfer::SmbdDataTransfer_NegativeParameter_DataLength_AgainstMaxReceiveSize",
    "data_transfer::SmbdDataTransfer_NegativeParameter_DataLength_AgainstMessageLength",
    "data_transfer::SmbdDataTransfer_NegativeParameter_DataOffset_Against8ByteAligned",
    "data_transfer::SmbdDataTransfer_NegativeParameter_DataOffset_AgainstMessageLength",
    "data_transfer::SmbdDataTransfer_NegativeParameter_RemainingDataLength_AgainstFragmentReassemblyRemaining",
    "data_transfer::SmbdDataTransfer_NegativeParameter_RemainingDataLength_AgainstMaxFragmentedSize",
    "data_transfer::SmbdDataTransfer_NegativeParameter_RemainingDataLength_Zero",
    "data_transfer::SmbdDataTransfer_ReceiveMaxReceiveSize",
    "data_transfer::SmbdDataTransfer_Redundancy",
    "data_transfer::SmbdDataTransfer_SmallLengthSegment",
    "data_transfer::SmbdDataTransfer_UncompletedMessage",
    "data_transfer::SmbdDataTransfer_VariableLengthSegment",
    "negotiate::BVT_SmbdNegotiate_Basic",
    "negotiate::SmbdNegotiate_DisconnectAfterNegotiate",
    "negotiate::SmbdNegotiate_NegativeParameter_CreditsRequested",
    "negotiate::SmbdNegotiate_NegativeParameter_MaxFragmentedSize",
    "negotiate::SmbdNegotiate_NegativeParameter_MaxReceiveSize",
    "negotiate::SmbdNegotiate_NegotiationTimer",
    "negotiate::SmbdNegotiate_NegotiationTimer_Timeout",
    "negotiate::SmbdNegotiate_PreferredSendSizeLessThan128",
    "negotiate::SmbdNegotiate_PreferredSendSizeMaxValue",
    "negotiate::SmbdNegotiate_PreferredSendSizeWithZero",
    "negotiate::SmbdNegotiate_Redundancy",
    "negotiate::SmbdNegotiate_UncompletedMessage",
    "negotiate::SmbdNegotiate_VersionRangeCover0x0100_EqualMaxVersion",
    "negotiate::SmbdNegotiate_VersionRangeCover0x0100_EqualMinVersion",
    "negotiate::SmbdNegotiate_VersionRangeCover0x0100_EqualMinVersionAndMaxVersion",
    "negotiate::SmbdNegotiate_VersionRangeCover0x0100_InMiddle",
    "negotiate::SmbdNegotiate_VersionRangeNotCover0x0100_LargerThanMaxVersion",
    "negotiate::SmbdNegotiate_VersionRangeNotCover0x0100_LessThanMinVersion",
];

/// This asks the program itself, so it also notices a case that is ignored or lacks `#[test]`.
#[test]
fn every_case_of_the_list_is_here() {
    let list = |arguments: &[&str]| -> BTreeSet<String> {
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .filter_map(|line| line.strip_suffix(": test")?.strip_prefix("ms_smbd::"))
            .filter(|name| name.contains("::"))
            .map(String::from)
            .collect()
    };
    let (here, expected) = (list(&["--list"]), CASES.map(String::from).into());
    let difference: Vec<_> = here.symmetric_difference(&expected).collect();
    assert!(difference.is_empty(), "missing or unknown: {difference:#?}");
    assert_eq!(list(&["--list", "--ignored"]), BTreeSet::new());
}
