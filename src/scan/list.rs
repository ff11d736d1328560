//! The list of all ways.

use super::{added::Added, bent::Bent, filtered::Filtered, stamped::Stamped, values::Values, way::Way};

/// All ways, in the order of reports.
pub const WAYS: [&dyn Way; 5] = [&Values, &Added, &Bent, &Stamped, &Filtered];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_lower_case_words() {
        let mut names = WAYS.map(Way::name);
        names.sort_unstable();
        assert!(names.windows(2).all(|two| two[0] != two[1]), "{names:?}");
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase())), "{names:?}");
        assert!(WAYS.iter().all(|way| !way.meaning().is_empty() && !way.meaning().ends_with('.')));
    }

    /// The pool alternates between two ways if no class stands out.
    #[test]
    fn several_ways_change_images() {
        assert!(WAYS.iter().filter(|way| way.changes_images()).count() >= 2);
    }
}
