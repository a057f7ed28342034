// SPDX-License-Identifier: GPL-2.0-or-later

//! One SMB Direct endpoint, with an owner and a peer that do anything in any order.

use core::time::Duration;

use smbdirect::proto::{
    Config, Endpoint, ProtocolError, Received, SLOWEST_RATE, SendError, State, Transmit,
};
use smbdirect::units::{Credits, Instant, RemoteToken};
use smbdirect::wire::{DataTransfer, NegotiateRequest, NegotiateResponse};

use super::input::Input;

const IDLE: Duration = Duration::from_secs(120);
const KEEPALIVE: Duration = Duration::from_secs(5);
const CREDITS: Duration = Duration::from_secs(60);
const MESSAGE: Duration = Duration::from_secs(30);

/// Makes a configuration whose sizes and credits may be anything.
pub(crate) fn config(input: &mut Input<'_>) -> Config {
    let usual = Config::default();
    let choice = input.u8();
    let mut pick = |bit: u8, usual: u32| {
        if choice & bit != 0 {
            input.u32()
        } else {
            usual
        }
    };
    Config {
        receive_credit_max: Credits(pick(1, 255) as u16),
        send_credit_target: Credits(pick(2, 255) as u16),
        max_send_size: pick(4, usual.max_send_size),
        max_receive_size: pick(8, usual.max_receive_size),
        max_fragmented_size: pick(16, usual.max_fragmented_size),
        max_read_write_size: pick(32, usual.max_read_write_size),
        negotiation_timeout: KEEPALIVE,
        idle_timeout: IDLE,
        keepalive_timeout: KEEPALIVE,
        credit_timeout: CREDITS,
        message_timeout: MESSAGE,
    }
}

/// What must be true of an endpoint, tracked separately in the plainest form.
struct Model {
    endpoint: Endpoint,
    config: Config,
    acceptor: bool,
    now: Instant,
    /// The number of receives that are posted but not used.
    posted: u64,
    /// The credits that the peer holds, and those that this side holds.
    peers: u64,
    own: u64,
    /// The message that is being sent: its length, the bytes already sent, and its token.
    sending: Option<(u32, u32, Option<RemoteToken>)>,
    /// The message in reassembly: its length, and the bytes that have arrived.
    receiving: Option<(u32, u32)>,
    /// The time at which the message in reassembly began.
    begun: Option<Instant>,
    heard: Instant,
    granted: Instant,
    /// Whether data has been sent.
    spoke: bool,
}

/// Runs a list of operations on an endpoint. The endpoint keeps its credits right, takes nothing without a credit, cuts
/// messages without gaps, gives up a peer only when its time is up, and stays closed once it is closed.
pub fn endpoint(data: &[u8]) {
    let mut input = Input::new(data);
    let acceptor = input.u8() % 2 == 0;
    let config = config(&mut input);
    let now = Instant::from_nanos(1);
    let mut model = Model {
        endpoint: if acceptor {
            Endpoint::acceptor(config, now)
        } else {
            Endpoint::initiator(config, now)
        },
        config,
        acceptor,
        now,
        posted: 0,
        peers: 0,
        own: 0,
        sending: None,
        receiving: None,
        begun: None,
        heard: now,
        granted: now,
        spoke: false,
    };
    while !input.is_empty() {
        let before = order(model.endpoint.state());
        model.step(&mut input);
        assert!(before <= order(model.endpoint.state()), "no way back");
        model.check();
    }
}

fn order(state: State) -> u8 {
    match state {
        State::Negotiating => 0,
        State::Established => 1,
        State::Closing => 2,
        State::Closed => 3,
    }
}

impl Model {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 9 {
            0 => self.post(u16::from(input.u8())),
            1 => self.post(self.endpoint.receives_wanted()),
            2 => {
                let length = usize::from(input.u8());
                self.receive(input.bytes(length));
            }
            3 => self.receive_data(input),
            4 => self.receive_negotiate(input),
            5 => self.start(input),
            6 => self.transmit_all(),
            7 => self.pass_time(input.duration()),
            _ if input.u8() % 4 == 0 => self.endpoint.close(),
            _ => drop(
                self.endpoint
                    .poll_transmit(self.now)
                    .map(|transmit| self.sent(&transmit)),
            ),
        }
    }

    /// Checks that the endpoint's visible state agrees with the model.
    fn check(&self) {
        let state = self.endpoint.state();
        assert_eq!(
            self.endpoint.poll_timeout().is_none(),
            state == State::Closed
        );
        if let Some(agreed) = self.endpoint.negotiated() {
            assert!(agreed.max_send_size >= 128 && agreed.max_receive_size >= 128);
            assert!(agreed.max_send_size <= self.config.max_send_size.max(128));
            assert!(agreed.max_receive_size <= self.config.max_receive_size.max(128));
            assert!(agreed.max_fragmented_send_size >= 131_072);
        }
        if state == State::Closed {
            return;
        }
        assert_eq!(u64::from(self.endpoint.send_credits().0), self.own);
        assert_eq!(u64::from(self.endpoint.receive_credits().0), self.peers);
        assert!(self.peers <= self.posted, "granted what is not posted");
        assert!(self.peers <= u64::from(self.config.receive_credit_max.0.max(4)));
        assert_eq!(self.endpoint.is_sending(), self.sending.is_some());
    }

    fn post(&mut self, count: u16) {
        self.endpoint.handle_receives_posted(count);
        self.posted += u64::from(count);
    }

    fn receive(&mut self, message: &[u8]) {
        let state = self.endpoint.state();
        let data = self.endpoint.negotiated().is_some();
        match self.endpoint.handle_message(self.now, message) {
            _ if state == State::Closed => {}
            Ok(received) if data => self.received_data(message, &received),
            Ok(received) => self.received_negotiate(message, &received),
            Err(error) => {
                assert!(!error.name().is_empty());
                self.ended();
            }
        }
    }

    fn received_negotiate(&mut self, message: &[u8], received: &Received) {
        assert_eq!(*received, Received::Negotiate);
        self.posted = self.posted.saturating_sub(1);
        self.heard = self.now;
        if !self.acceptor {
            let response = NegotiateResponse::parse(message).expect("it was accepted");
            assert_eq!(response.status, 0);
            self.own = u64::from(response.credits_granted.0);
            assert_eq!(self.endpoint.state(), State::Established);
        }
    }

    fn received_data(&mut self, message: &[u8], received: &Received) {
        let header = DataTransfer::parse(message).expect("it was accepted");
        let agreed = *self.endpoint.negotiated().expect("it was accepted");
        assert!(message.len() <= agreed.max_receive_size as usize);
        self.peers = self.peers.checked_sub(1).expect("taken without a credit");
        self.posted = self.posted.checked_sub(1).expect("taken without a receive");
        self.own += u64::from(header.credits_granted.0);
        assert!(self.own <= 65_535);
        self.heard = self.now;
        if header.credits_granted > Credits::ZERO {
            self.granted = self.now;
        }
        let Received::Fragment {
            payload,
            offset,
            total,
        } = received
        else {
            assert!(*received == Received::Credits && header.payload.is_empty());
            // An empty fragment begins a message, or continues one with nothing.
            if header.remaining_data_length > 0 {
                let announced = (header.remaining_data_length, 0);
                let (total, arrived) = *self.receiving.get_or_insert(announced);
                assert_eq!(total - arrived, header.remaining_data_length);
                assert!(total <= agreed.max_fragmented_receive_size);
                self.begun.get_or_insert(self.now);
            }
            return;
        };
        assert_eq!(*payload, header.payload);
        let (expected, arrived) = self.receiving.unwrap_or((*total, 0));
        assert_eq!((*total, *offset), (expected, arrived));
        assert!(*total <= agreed.max_fragmented_receive_size);
        let arrived = arrived + payload.len() as u32;
        assert_eq!(total - arrived, header.remaining_data_length);
        self.receiving = (arrived < *total).then_some((*total, arrived));
        let begun = self.begun.unwrap_or(self.now);
        self.begun = self.receiving.map(|_| begun);
    }

    /// Makes the endpoint receive a data transfer message that is legal by itself.
    fn receive_data(&mut self, input: &mut Input<'_>) {
        let length = u32::from(input.u16() % 1400);
        let choice = input.u8();
        let remaining_data_length = match (self.receiving, choice & 3) {
            (Some((total, arrived)), 0 | 1) => (total - arrived).saturating_sub(length),
            (_, 2) => input.u32(),
            _ if length > 0 || choice & 8 != 0 => u32::from(choice) * 100,
            _ => 0,
        };
        let header = DataTransfer {
            credits_requested: Credits(u16::from(input.u8())),
            credits_granted: Credits(if choice & 4 == 0 {
                u16::from(input.u8())
            } else {
                input.u16()
            }),
            flags: u16::from(choice >> 7),
            remaining_data_length,
            payload: DataTransfer::payload_of(length),
        };
        let (bytes, header_length) = header.emit();
        let mut message = bytes[..header_length].to_vec();
        message.resize(header_length + length as usize, 0);
        self.receive(&message);
    }

    /// Makes the endpoint receive either negotiate message, with mostly legal values.
    fn receive_negotiate(&mut self, input: &mut Input<'_>) {
        let choice = input.u8();
        let mut pick = |bit: u8, usual: u32| {
            if choice & bit != 0 {
                input.u32()
            } else {
                usual
            }
        };
        let request = NegotiateRequest {
            min_version: 0x0100,
            max_version: pick(1, 0x0100) as u16,
            credits_requested: Credits(pick(2, 255) as u16),
            preferred_send_size: pick(4, 1364),
            max_receive_size: pick(8, 1364),
            max_fragmented_size: pick(16, 1 << 20),
        };
        if self.acceptor {
            return self.receive(&request.emit());
        }
        let response = NegotiateResponse {
            min_version: request.min_version,
            max_version: request.max_version,
            negotiated_version: 0x0100,
            credits_requested: request.credits_requested,
            credits_granted: Credits(pick(32, 10) as u16),
            status: pick(64, 0),
            max_read_write_size: pick(128, 1 << 20),
            preferred_send_size: request.preferred_send_size,
            max_receive_size: request.max_receive_size,
            max_fragmented_size: request.max_fragmented_size,
        };
        self.receive(&response.emit());
    }

    fn start(&mut self, input: &mut Input<'_>) {
        let length = if input.u8() % 8 == 0 {
            input.u32()
        } else {
            u32::from(input.u16())
        };
        let token = (length % 2 == 0).then_some(RemoteToken(length));
        let sending = self.sending.is_some();
        let limit = self
            .endpoint
            .negotiated()
            .map_or(0, |agreed| agreed.max_fragmented_send_size);
        match self.endpoint.start_message(length, token) {
            Ok(()) => {
                assert!(!sending && (1..=limit).contains(&length));
                self.sending = Some((length, 0, token));
            }
            Err(SendError::Busy) => assert!(sending),
            Err(SendError::Empty) => assert_eq!(length, 0),
            Err(SendError::TooLong) => assert!(length > limit),
            Err(SendError::NotEstablished) => assert_ne!(self.endpoint.state(), State::Established),
        }
    }

    /// Polls for messages until there are none.
    fn transmit_all(&mut self) {
        let most = self.own + 1;
        for _ in 0..=most {
            match self.endpoint.poll_transmit(self.now) {
                Some(transmit) => self.sent(&transmit),
                None => return,
            }
        }
        panic!("more messages than credits");
    }

    fn sent(&mut self, transmit: &Transmit) {
        match (transmit.header().len(), self.acceptor) {
            (32, true) => self.sent_response(transmit),
            (20, false) if self.endpoint.negotiated().is_none() => {
                let request = NegotiateRequest::parse(transmit.header()).unwrap();
                assert!(request.offers_version() && request.check().is_ok());
                assert!(self.posted > 0, "nowhere for the response to go");
            }
            _ => self.sent_data(transmit),
        }
    }

    fn sent_response(&mut self, transmit: &Transmit) {
        let response = NegotiateResponse::parse(transmit.header()).unwrap();
        assert!(transmit.payload.is_empty() && !transmit.ends_message);
        self.heard = self.now;
        if response.status == 0 {
            assert!(response.check(u32::MAX).is_ok());
            assert_eq!(self.endpoint.state(), State::Established);
            self.peers = u64::from(response.credits_granted.0);
        } else {
            assert_eq!(
                (response, self.endpoint.state()),
                (NegotiateResponse::refusal(0xC000_00BB), State::Closed)
            );
        }
    }

    fn sent_data(&mut self, transmit: &Transmit) {
        let agreed = self
            .endpoint
            .negotiated()
            .expect("data before the negotiation");
        let length = transmit.header().len() + transmit.payload.len();
        assert!(length <= agreed.max_send_size as usize);
        let mut message = transmit.header().to_vec();
        message.resize(length, 0);
        let header = DataTransfer::parse(&message).expect("legal");
        assert_eq!(
            header.credits_requested,
            Credits(self.config.send_credit_target.0.max(1))
        );
        assert_eq!(header.payload.len(), transmit.payload.len());
        let first = !std::mem::replace(&mut self.spoke, true);
        assert!(
            self.acceptor || !first || header.credits_granted > Credits::ZERO,
            "the acceptor cannot answer"
        );
        self.peers += u64::from(header.credits_granted.0);
        self.own = self.own.checked_sub(1).expect("sent without a credit");
        assert!(
            self.own > 0 || header.credits_granted > Credits::ZERO,
            "spent the last credit on nothing"
        );
        let Some((length, sent, token)) = self.sending else {
            return assert!(
                transmit.payload.is_empty()
                    && !transmit.ends_message
                    && transmit.invalidate.is_none()
            );
        };
        assert!(
            !transmit.payload.is_empty(),
            "an empty message between fragments"
        );
        assert_eq!(transmit.payload.start, sent);
        assert_eq!(header.remaining_data_length, length - transmit.payload.end);
        let ends = transmit.payload.end == length;
        assert_eq!(
            (transmit.ends_message, transmit.invalidate),
            (ends, token.filter(|_| ends))
        );
        self.sending = (!ends).then_some((length, transmit.payload.end, token));
    }

    fn pass_time(&mut self, time: Duration) {
        self.now = self.now + time;
        let due = self
            .endpoint
            .poll_timeout()
            .is_some_and(|at| at <= self.now);
        let Err(error) = self.endpoint.handle_timeout(self.now) else {
            return;
        };
        assert!(due, "{error} before its time");
        match error {
            ProtocolError::NegotiationTimeout => assert!(self.endpoint.negotiated().is_none()),
            ProtocolError::KeepaliveTimeout => {
                assert!(self.now - self.heard >= IDLE + KEEPALIVE);
                assert!(self.peers > 0 || self.own == 0, "the peer had no credit");
            }
            ProtocolError::CreditTimeout => {
                assert!(
                    self.own == 0 && self.sending.is_some() && self.now - self.granted >= CREDITS
                );
            }
            ProtocolError::MessageTimeout => {
                let begun = self.begun.expect("a message is incomplete");
                let (length, _) = self.receiving.expect("a message is incomplete");
                let longer = Duration::from_secs(u64::from(length / SLOWEST_RATE));
                assert!(self.now - begun >= MESSAGE + longer);
                assert!(self.peers > 0 || self.own == 0, "the peer had no credit");
            }
            other => panic!("{other} is not for a timeout"),
        }
        self.ended();
    }

    /// Checks that the endpoint is closed after an error, and that nothing wakes it.
    fn ended(&mut self) {
        assert_eq!(self.endpoint.state(), State::Closed);
        assert_eq!(self.endpoint.poll_transmit(self.now), None);
        assert_eq!(self.endpoint.poll_timeout(), None);
        assert_eq!(self.endpoint.receives_wanted(), 0);
        assert_eq!(
            self.endpoint.start_message(1, None),
            Err(SendError::NotEstablished)
        );
        assert_eq!(
            self.endpoint.handle_message(self.now, &[]),
            Ok(Received::Credits)
        );
        assert_eq!(self.endpoint.handle_timeout(self.now), Ok(()));
    }
}
