// SPDX-License-Identifier: GPL-2.0-or-later

//! Applies the parameters that a listener sets for the negotiation of connections.

use core::time::Duration;

use crate::device::abi;
use crate::proto;
use crate::units::Credits;

/// Returns the device's own values, lowered to those of the listener.
#[must_use]
pub fn reduced(own: &proto::Config, set: &abi::SetParameters) -> proto::Config {
    let number = |own: u32, set: u32| if set == 0 { own } else { own.min(set) };
    let credits = |own: Credits, set: u16| if set == 0 { own } else { own.min(Credits(set)) };
    let interval = match set.keepalive_interval_ms {
        0 => own.idle_timeout,
        milliseconds => Duration::from_millis(milliseconds.into()).min(own.idle_timeout),
    };
    proto::Config {
        receive_credit_max: credits(own.receive_credit_max, set.receive_credit_max),
        send_credit_target: credits(own.send_credit_target, set.send_credit_target),
        max_send_size: number(own.max_send_size, set.max_send_size),
        max_receive_size: number(own.max_receive_size, set.max_receive_size),
        max_fragmented_size: number(own.max_fragmented_size, set.max_fragmented_size),
        max_read_write_size: number(own.max_read_write_size, set.max_read_write_size),
        idle_timeout: interval,
        ..*own
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes;

    use super::*;

    #[test]
    fn a_listener_can_lower_the_devices_values_and_not_raise_them() {
        let own = proto::Config::default();
        let mut set = abi::SetParameters::read_from_bytes(&[0; 64]).unwrap();
        assert_eq!(reduced(&own, &set), own);
        set.receive_credit_max = 10;
        set.send_credit_target = 1000;
        set.max_read_write_size = 1 << 20;
        set.max_fragmented_size = u32::MAX;
        set.keepalive_interval_ms = 1000;
        let expected = proto::Config {
            receive_credit_max: Credits(10),
            max_read_write_size: 1 << 20,
            idle_timeout: Duration::from_secs(1),
            ..own
        };
        assert_eq!(reduced(&own, &set), expected);
    }
}
