// SPDX-License-Identifier: GPL-2.0-or-later

//! The decisions of the MPA handshake: the answer to a request, and the agreement of both sides (RFC 5044 7.1, RFC
//! 6581).
//!
//! The initiator asks with revision 2. Its READ depths are in the enhanced part, and once more in
//! the eight bytes of private data in which SMB Direct peers exchange them without enhanced MPA.
//! The responder answers in the revision of the request.

use super::IwarpError;
use super::mpa::{Frame, FrameKind, LegacyReadDepths, ReadDepths};

/// Number of READs outstanding towards a peer that did not state its IRD.
const UNKNOWN_DEPTH: u16 = 1;

/// The offer of this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Whether this side asks for CRCs, which are used if either side does.
    pub crc: bool,
    /// Number of READs of the peer that this side serves at a time, 1 to 0x3ffe.
    pub ird: u16,
    /// Number of READs that this side has outstanding at a time, 1 to 0x3ffe.
    pub ord: u16,
}

/// The values on which both sides agreed for the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Agreed {
    /// Whether FPDUs carry CRCs.
    pub crc: bool,
    /// Number of READs of the peer that this side serves at a time.
    pub ird: u16,
    /// Number of READs that this side has outstanding at a time.
    pub ord: u16,
    /// Whether this side is the responder, which waits for the peer's first FPDU before it sends one.
    pub peer_speaks_first: bool,
    /// Whether that first FPDU may be a zero-length SEND that serves only as the ready-to-receive message (RFC 6581 9).
    pub ready_to_receive_send: bool,
}

/// A request that may be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    revision: u8,
    crc: bool,
    enhanced: Option<ReadDepths>,
    legacy: Option<LegacyReadDepths>,
}

/// A frame to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    kind: FrameKind,
    revision: u8,
    crc: bool,
    reject: bool,
    enhanced: Option<ReadDepths>,
    legacy: Option<LegacyReadDepths>,
}

/// Length of the longest frame that is sent, in bytes.
pub const MAX_OUTGOING: usize =
    super::mpa::FRAME_HEADER_LENGTH + ReadDepths::LENGTH + LegacyReadDepths::LENGTH;

impl Outgoing {
    /// Writes the frame to `out`, and returns its length.
    pub fn emit(&self, out: &mut [u8; MAX_OUTGOING]) -> Result<usize, IwarpError> {
        let legacy = self.legacy.map(LegacyReadDepths::emit);
        let private_data = legacy.as_ref().map_or(&[][..], |bytes| bytes);
        Frame {
            kind: self.kind,
            markers: false,
            crc: self.crc,
            reject: self.reject,
            revision: self.revision,
            enhanced: self.enhanced,
            private_data,
        }
        .emit(out)
    }
}

/// Makes the request of an initiator.
#[must_use]
pub fn request(offer: Offer) -> Outgoing {
    Outgoing {
        kind: FrameKind::Request,
        revision: 2,
        crc: offer.crc,
        reject: false,
        enhanced: Some(ReadDepths {
            ird: offer.ird,
            ord: offer.ord,
            control: 0,
        }),
        legacy: Some(LegacyReadDepths {
            ird: u32::from(offer.ird),
            ord: u32::from(offer.ord),
        }),
    }
}

impl Request {
    /// Checks a request. After an error, the request can only be rejected.
    pub fn new(frame: &Frame<'_>) -> Result<Self, IwarpError> {
        if frame.markers {
            return Err(IwarpError::MpaMarkers);
        }
        Ok(Self {
            revision: frame.revision,
            crc: frame.crc,
            enhanced: frame.enhanced,
            legacy: LegacyReadDepths::parse(frame.private_data),
        })
    }

    /// Accepts the request: returns the reply, and the agreement that holds once it is sent.
    #[must_use]
    pub fn accept(&self, offer: Offer) -> (Outgoing, Agreed) {
        let (peer_ird, peer_ord) = self.peer_depths();
        let agreed = Agreed {
            crc: self.crc || offer.crc,
            ird: offer.ird.min(peer_ord.unwrap_or(offer.ird).max(1)),
            ord: offer.ord.min(peer_ird.unwrap_or(UNKNOWN_DEPTH)),
            peer_speaks_first: true,
            ready_to_receive_send: self.ready_to_receive()
                == ReadDepths::PEER_TO_PEER | ReadDepths::RTR_SEND,
        };
        let enhanced = self.enhanced.map(|_| ReadDepths {
            ird: agreed.ird,
            ord: agreed.ord,
            control: self.ready_to_receive(),
        });
        // An enhanced reply does not need legacy depths. If the reply is not enhanced, the peer has no other depths.
        let legacy = (enhanced.is_none() && self.legacy.is_some()).then_some(LegacyReadDepths {
            ird: u32::from(agreed.ird),
            ord: u32::from(agreed.ord),
        });
        let reply = Outgoing {
            kind: FrameKind::Reply,
            revision: self.revision,
            crc: agreed.crc,
            reject: false,
            enhanced,
            legacy,
        };
        (reply, agreed)
    }

    /// Rejects the request.
    #[must_use]
    pub fn reject(&self) -> Outgoing {
        reject(self.revision, self.enhanced.is_some())
    }

    /// Returns IRD and ORD of the peer, if it named them.
    fn peer_depths(&self) -> (Option<u16>, Option<u16>) {
        if let Some(depths) = self.enhanced {
            let named = |depth| (depth != ReadDepths::NOT_NEGOTIATED).then_some(depth);
            return (named(depths.ird), named(depths.ord));
        }
        let narrow = |depth: u32| u16::try_from(depth).unwrap_or(u16::MAX);
        match self.legacy {
            Some(depths) => (Some(narrow(depths.ird)), Some(narrow(depths.ord))),
            None => (None, None),
        }
    }

    /// Returns the ready-to-receive message for peer-to-peer mode: of those offered, the one that costs this side
    /// least.
    fn ready_to_receive(&self) -> u16 {
        let control = self.enhanced.map_or(0, |depths| depths.control);
        if control & ReadDepths::PEER_TO_PEER == 0 {
            return 0;
        }
        [
            ReadDepths::RTR_WRITE,
            ReadDepths::RTR_READ,
            ReadDepths::RTR_SEND,
        ]
        .into_iter()
        .find(|kind| control & kind != 0)
        .map_or(0, |kind| ReadDepths::PEER_TO_PEER | kind)
    }
}

/// Makes a reply that rejects a request of this revision.
#[must_use]
pub fn reject(revision: u8, enhanced: bool) -> Outgoing {
    Outgoing {
        kind: FrameKind::Reply,
        revision,
        crc: false,
        reject: true,
        enhanced: enhanced.then_some(ReadDepths::default()),
        legacy: None,
    }
}

/// Checks the reply to [`request`].
pub fn handle_reply(frame: &Frame<'_>, offer: Offer) -> Result<Agreed, IwarpError> {
    if frame.reject {
        return Err(IwarpError::MpaRejected);
    }
    if frame.markers {
        return Err(IwarpError::MpaMarkers);
    }
    let depths = match (frame.revision, frame.enhanced) {
        (2, Some(depths)) => depths,
        _ => return Err(IwarpError::MpaRevisionMismatch),
    };
    let peer_ird = match depths.ird {
        ReadDepths::NOT_NEGOTIATED => offer.ord,
        ird => ird,
    };
    Ok(Agreed {
        // The responder must set C if it was asked to (RFC 5044 7.1.1).
        crc: frame.crc || offer.crc,
        // If a responder issues more READs than it was offered, that ends the connection.
        ird: offer.ird,
        ord: offer.ord.min(peer_ird),
        peer_speaks_first: false,
        ready_to_receive_send: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer {
        crc: false,
        ird: 32,
        ord: 16,
    };

    fn frame(kind: FrameKind, enhanced: Option<ReadDepths>) -> Frame<'static> {
        let revision = if enhanced.is_some() { 2 } else { 1 };
        Frame {
            kind,
            markers: false,
            crc: false,
            reject: false,
            revision,
            enhanced,
            private_data: &[],
        }
    }

    fn depths(ird: u16, ord: u16, control: u16) -> Option<ReadDepths> {
        Some(ReadDepths { ird, ord, control })
    }

    fn bytes(outgoing: &Outgoing) -> alloc::vec::Vec<u8> {
        let mut out = [0; MAX_OUTGOING];
        let length = outgoing.emit(&mut out).unwrap();
        out[..length].to_vec()
    }

    #[test]
    fn answers_the_linux_client_in_kind() {
        // cifs.ko of Linux 7.2 sends this over siw.
        let mut sent =
            b"MPA ID Req Frame\x10\x02\x00\x0c\x00\x20\x00\x01\x00\x00\x00\x20\x00\x00\x00\x01"
                .to_vec();
        let request = Request::new(&Frame::parse(FrameKind::Request, &sent).unwrap()).unwrap();
        let (reply, agreed) = request.accept(OFFER);
        assert_eq!(
            bytes(&reply),
            b"MPA ID Rep Frame\x10\x02\x00\x04\x00\x01\x00\x10"
        );
        let expected = Agreed {
            crc: false,
            ird: 1,
            ord: 16,
            peer_speaks_first: true,
            ready_to_receive_send: false,
        };
        assert_eq!(agreed, expected);
        sent[16] |= 0x40;
        let request = Request::new(&Frame::parse(FrameKind::Request, &sent).unwrap()).unwrap();
        let (reply, agreed) = request.accept(OFFER);
        assert_eq!(bytes(&reply)[16], 0x50, "C is mirrored");
        assert!(agreed.crc);
    }

    #[test]
    fn crcs_are_used_if_only_this_side_asks_for_them() {
        let request = Request::new(&frame(FrameKind::Request, depths(1, 1, 0))).unwrap();
        let (reply, agreed) = request.accept(Offer { crc: true, ..OFFER });
        assert!(agreed.crc && reply.crc);
    }

    #[test]
    fn read_depths_are_those_that_both_sides_can_serve() {
        for (peer, ird, ord) in [
            ((1, 0), 1, 1),
            ((8, 40), 32, 8),
            ((0x3fff, 0x3fff), 32, 1),
            ((0, 1), 1, 0),
            ((64, 64), 32, 16),
        ] {
            let request =
                Request::new(&frame(FrameKind::Request, depths(peer.0, peer.1, 0))).unwrap();
            let (_, agreed) = request.accept(OFFER);
            assert_eq!((agreed.ird, agreed.ord), (ird, ord), "{peer:?}");
        }
    }

    #[test]
    fn revision_1_has_its_depths_in_the_private_data_or_nowhere() {
        let mut old = frame(FrameKind::Request, None);
        let (reply, agreed) = Request::new(&old).unwrap().accept(OFFER);
        assert_eq!((agreed.ird, agreed.ord), (32, 1));
        assert_eq!(bytes(&reply), b"MPA ID Rep Frame\x00\x01\x00\x00");
        old.private_data = &[0, 0, 0, 4, 0, 0, 0, 2];
        let (reply, agreed) = Request::new(&old).unwrap().accept(OFFER);
        assert_eq!((agreed.ird, agreed.ord), (2, 4));
        assert_eq!(
            bytes(&reply),
            b"MPA ID Rep Frame\x00\x01\x00\x08\x00\x00\x00\x02\x00\x00\x00\x04"
        );
    }

    #[test]
    fn chooses_one_ready_to_receive_message() {
        let p2p = ReadDepths::PEER_TO_PEER;
        for (offered, chosen) in [
            (0, 0),
            (ReadDepths::RTR_READ, 0),
            (
                p2p | ReadDepths::RTR_SEND | ReadDepths::RTR_READ,
                p2p | ReadDepths::RTR_READ,
            ),
            (
                p2p | ReadDepths::RTR_WRITE | ReadDepths::RTR_READ,
                p2p | ReadDepths::RTR_WRITE,
            ),
            (p2p | ReadDepths::RTR_SEND, p2p | ReadDepths::RTR_SEND),
        ] {
            let request = Request::new(&frame(FrameKind::Request, depths(1, 1, offered))).unwrap();
            let (reply, agreed) = request.accept(OFFER);
            assert_eq!(reply.enhanced.unwrap().control, chosen);
            assert_eq!(
                agreed.ready_to_receive_send,
                chosen == p2p | ReadDepths::RTR_SEND
            );
        }
    }

    #[test]
    fn markers_are_refused_both_ways() {
        let mut marked = frame(FrameKind::Request, depths(1, 1, 0));
        marked.markers = true;
        assert_eq!(Request::new(&marked), Err(IwarpError::MpaMarkers));
        assert_eq!(handle_reply(&marked, OFFER), Err(IwarpError::MpaMarkers));
        assert_eq!(
            bytes(&reject(2, true)),
            b"MPA ID Rep Frame\x30\x02\x00\x04\x00\x00\x00\x00"
        );
    }

    #[test]
    fn initiator_issues_no_more_reads_than_the_reply_allows() {
        let agreed = handle_reply(&frame(FrameKind::Reply, depths(1, 8, 0)), OFFER).unwrap();
        assert_eq!(
            (agreed.ird, agreed.ord, agreed.peer_speaks_first),
            (32, 1, false)
        );
        let agreed = handle_reply(&frame(FrameKind::Reply, depths(0x3fff, 8, 0)), OFFER).unwrap();
        assert_eq!(agreed.ord, 16);
    }

    #[test]
    fn initiator_refuses_a_rejection_and_another_revision() {
        assert_eq!(
            handle_reply(&frame(FrameKind::Reply, None), OFFER),
            Err(IwarpError::MpaRevisionMismatch)
        );
        let mut rejected = frame(FrameKind::Reply, depths(0, 0, 0));
        rejected.reject = true;
        assert_eq!(handle_reply(&rejected, OFFER), Err(IwarpError::MpaRejected));
    }

    #[test]
    fn request_and_reply_fit_together() {
        let sent = bytes(&request(OFFER));
        let request = Request::new(&Frame::parse(FrameKind::Request, &sent).unwrap()).unwrap();
        let (reply, responder) = request.accept(Offer {
            crc: true,
            ird: 4,
            ord: 64,
        });
        let reply = bytes(&reply);
        let initiator =
            handle_reply(&Frame::parse(FrameKind::Reply, &reply).unwrap(), OFFER).unwrap();
        assert_eq!((initiator.ird, initiator.ord), (32, 4));
        assert_eq!((responder.ird, responder.ord), (4, 32));
        assert!(initiator.crc && responder.crc);
    }
}
