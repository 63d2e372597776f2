//! Tokens: the names of headers, parameters and options (RFC 3261 section 25.1, `token`).

/// Whether a token may hold this character.
pub fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-.!%*_+`'~".contains(c)
}

/// Whether this is a token. An empty text is none.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_char)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_without_separators() {
        assert!(["a", "X-Header", "100rel", "-.!%*_+`'~"].into_iter().all(is_token));
        assert!(!["", "a b", "a:", "\"a\"", "a;b", "a\r\n", "\u{e9}"].into_iter().any(is_token));
    }
}
