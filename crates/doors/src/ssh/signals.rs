//! Signals by their names (RFC 4254 section 6.10) and by Linux' numbers.

use russh::Sig;

/// The number of a signal; `None` if it has none. The last five have no word of their own in the protocol, and OpenSSH sends them.
pub(super) fn number(signal: &Sig) -> Option<i32> {
    Some(match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(name) => match name.as_str() {
            "USR2" => 12,
            "CHLD" => 17,
            "CONT" => 18,
            "STOP" => 19,
            "TSTP" => 20,
            _ => return None,
        },
    })
}

/// The signal with a number.
pub(super) fn named(number: i32) -> Option<Sig> {
    Some(match number {
        1 => Sig::HUP,
        2 => Sig::INT,
        3 => Sig::QUIT,
        4 => Sig::ILL,
        6 => Sig::ABRT,
        8 => Sig::FPE,
        9 => Sig::KILL,
        10 => Sig::USR1,
        11 => Sig::SEGV,
        13 => Sig::PIPE,
        14 => Sig::ALRM,
        15 => Sig::TERM,
        12 => Sig::Custom("USR2".into()),
        17 => Sig::Custom("CHLD".into()),
        18 => Sig::Custom("CONT".into()),
        19 => Sig::Custom("STOP".into()),
        20 => Sig::Custom("TSTP".into()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for value in 1..=31 {
            if let Some(signal) = named(value) {
                assert_eq!(number(&signal), Some(value));
            }
        }
        assert_eq!((number(&Sig::TERM), number(&Sig::Custom("NONE".into()))), (Some(15), None));
        assert!(named(64).is_none());
    }
}
