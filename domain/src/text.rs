//! Texts that somebody else has sent.

/// The beginning of a text, `most` bytes of it or a character less.
pub fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}
