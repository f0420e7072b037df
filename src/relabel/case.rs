//! Upper and lower case as Go has it: rune by rune, each by one rune at most. Pure.
//!
//! Rust follows Unicode's full mappings instead, by which `ß` becomes `SS`, `İ` becomes two characters and `Σ` at the end of a word `ς`.

/// As `strings.ToLower`.
#[must_use]
pub fn lower(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.chars().map(lower_char).collect() }
}

/// As `strings.ToUpper`.
#[must_use]
pub fn upper(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_uppercase() } else { text.chars().map(upper_char).collect() }
}

fn lower_char(character: char) -> char {
    // The only character whose full mapping has several: the first of them is the simple one.
    character.to_lowercase().next().unwrap_or(character)
}

fn upper_char(character: char) -> char {
    let mut full = character.to_uppercase();
    match (full.next(), full.next()) {
        (Some(upper), None) => upper,
        _ => match character {
            // Greek letters with an iota below: by the simple mapping it is written beside a capital, in one character.
            '\u{1F80}'..='\u{1F87}' | '\u{1F90}'..='\u{1F97}' | '\u{1FA0}'..='\u{1FA7}' => moved(character, 8),
            '\u{1FB3}' | '\u{1FC3}' | '\u{1FF3}' => moved(character, 9),
            // Ligatures and the like have no capital of their own.
            other => other,
        },
    }
}

fn moved(character: char, by: u32) -> char {
    char::from_u32(character as u32 + by).unwrap_or(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rune_stays_one_rune() {
        assert_eq!(upper("straße ﬁn ŉ ᾳ ᾀ ᾈ"), "STRAßE ﬁN ŉ ᾼ ᾈ ᾈ");
        assert_eq!(lower("İSTANBUL ΟΔΟΣ ẞ ᾈ"), "istanbul οδοσ ß ᾀ");
        assert_eq!((upper("ǆ ǅ"), lower("Ǆ ǅ")), ("Ǆ Ǆ".into(), "ǆ ǆ".into()));
    }

    /// Counted with Go 1.27; up to where no version of Unicode adds letters any more.
    #[test]
    fn the_mappings_are_those_of_go() {
        let changed = |map: fn(char) -> char| {
            let changed = ('\0'..='\u{2FFF}').filter(|c| map(*c) != *c);
            changed.fold((0u32, 0u32), |(count, sum), c| {
                (count + 1, sum.wrapping_mul(31).wrapping_add(c as u32 ^ (map(c) as u32).rotate_left(16)))
            })
        };
        assert_eq!(changed(lower_char), (1025, 407_539_156));
        assert_eq!(changed(upper_char), (976, 36_380_856));
    }
}
