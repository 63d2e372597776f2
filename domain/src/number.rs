//! Numbers as the script's functions take them.

/// A text that is no number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a number: write it in decimal, or in hexadecimal with 0x")]
pub struct NumberError(String);

/// Reads a number: decimal, or hexadecimal with `0x`; `""` is 0.
///
/// # Errors
/// When `written` is something else, or more than 32 bits.
pub fn parse(written: &str) -> Result<u32, NumberError> {
    let wrong = || NumberError(written.to_owned());
    let (digits, radix) = match written.trim() {
        "" => return Ok(0),
        text => text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16)),
    };
    if digits.chars().all(|digit| digit.is_digit(radix)) {
        u32::from_str_radix(digits, radix).map_err(|_| wrong())
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_or_hexadecimal_and_nothing_is_0() {
        let read: Vec<_> = ["", " ", "0", "12", "0x0c", "4294967295"].map(parse).into_iter().flatten().collect();
        assert_eq!(read, [0, 0, 0, 12, 12, u32::MAX]);
        for wrong in ["0x", "x", "+1", "-1", "0x+1", "1 2", "4294967296", "0x100000000"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
