//! "Did you mean …?"

/// The candidate that was most likely meant by `name`, if one is near enough. `None` rather than a wild guess.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may differ; beyond that a proposal confuses more than it helps.
    let most = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| *candidate != name)
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= most || (name.len() >= 3 && candidate.starts_with(name)))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;
    use proptest::prelude::*;

    #[test]
    fn near_names_are_proposed_and_far_ones_are_not() {
        let known = ["web", "database", "web-frontend", "busybox"];
        assert_eq!(nearest("wbe", known), Some("web"));
        assert_eq!(nearest("databse", known), Some("database"));
        assert_eq!(nearest("web-f", known), Some("web-frontend"));
        assert_eq!(nearest("bussybox", known), Some("busybox"));
        assert_eq!(nearest("queue", known), None);
        assert_eq!(nearest("", known), None);
    }

    proptest! {
        #[test]
        fn only_candidates_are_proposed_and_never_the_name_itself(name in "[a-z]{0,8}", known in proptest::collection::vec("[a-z]{1,8}", 0..6)) {
            if let Some(near) = nearest(&name, known.iter().map(String::as_str)) {
                prop_assert!(known.iter().any(|k| k == near) && near != name);
            }
        }
    }
}
