// SPDX-License-Identifier: GPL-2.0-or-later

//! Bytes as hexadecimal digits, for `serde(with = "crate::units::hex")`.

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::Serializer;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

pub(crate) fn serialize<T: AsRef<[u8]>, S: Serializer>(
    bytes: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let bytes = bytes.as_ref();
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.extend(DIGITS.get(usize::from(digit)).copied().map(char::from));
        }
    }
    serializer.serialize_str(&text)
}

pub(crate) fn deserialize<'de, T: TryFrom<Vec<u8>>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = parse(&text).ok_or_else(|| D::Error::custom("not hexadecimal digits"))?;
    let length = bytes.len();
    T::try_from(bytes).map_err(|_| D::Error::custom(format!("{length} bytes are not the length")))
}

fn parse(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| match pair {
        // Two digits are at most 255.
        [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
        _ => None,
    };
    pairs.map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_other_texts_do_not_become_bytes() {
        let bytes = vec![0, 0x0f, 0xa5, 0xff];
        let text = serialize(&bytes, serde_json::value::Serializer).unwrap();
        assert_eq!(text, "000fa5ff");
        assert_eq!(deserialize::<Vec<u8>, _>(text.clone()).unwrap(), bytes);
        assert_eq!(deserialize::<[u8; 4], _>(&text).unwrap(), *bytes);
        assert!(deserialize::<[u8; 3], _>(&text).is_err());
        for wrong in ["0", "0g", "é"] {
            let wrong = serde_json::Value::from(wrong);
            assert!(deserialize::<Vec<u8>, _>(wrong).is_err());
        }
    }
}
