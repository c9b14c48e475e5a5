//! Weighted choice among destinations.

/// Choices with their running weight sums, fixed when compiled.
#[derive(Clone, Debug)]
pub struct Weighted<T> {
    choices: Vec<(u32, T)>,
    total: u32,
}

impl<T> Weighted<T> {
    /// A single choice takes everything, whatever its weight; among several, those of weight 0 are
    /// dropped. Nothing when no choice remains.
    pub fn new(mut choices: Vec<(u32, T)>) -> Option<Self> {
        if let [(weight, _)] = choices.as_mut_slice() {
            *weight = 1;
        }
        let mut total = 0u32;
        choices.retain_mut(|(weight, _)| {
            total = total.saturating_add(*weight);
            let keep = *weight > 0;
            *weight = total;
            keep
        });
        (total > 0).then_some(Self { choices, total })
    }

    /// A choice that takes everything.
    pub fn single(choice: T) -> Self {
        Self { choices: vec![(1, choice)], total: 1 }
    }

    /// The choice for a uniformly random number.
    pub fn pick(&self, random: u32) -> Option<&T> {
        if let [(_, only)] = self.choices.as_slice() {
            return Some(only);
        }
        let point = u32::try_from((u64::from(random) * u64::from(self.total)) >> 32).unwrap_or(0);
        let index = self.choices.partition_point(|(upto, _)| *upto <= point);
        self.choices.get(index).map(|(_, choice)| choice)
    }

    /// The least number for which a choice is picked that is wanted; nothing when none is.
    pub fn number_for(&self, wanted: impl Fn(&T) -> bool) -> Option<u32> {
        let before = std::iter::once(0).chain(self.choices.iter().map(|(upto, _)| *upto));
        let (_, first) = self.choices.iter().zip(before).find(|((_, choice), _)| wanted(choice))?;
        u32::try_from((u64::from(first) << 32).div_ceil(u64::from(self.total))).ok()
    }

    /// The sum of all weights.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Every choice with its weight.
    pub fn shares(&self) -> impl Iterator<Item = (u32, &T)> {
        let before = std::iter::once(0).chain(self.choices.iter().map(|(upto, _)| *upto));
        self.choices.iter().zip(before).map(|((upto, choice), before)| (upto - before, choice))
    }

    /// Every choice.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.choices.iter().map(|(_, choice)| choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_over_the_whole_range() {
        let weighted = Weighted::new(vec![(1, 'a'), (0, 'z'), (3, 'b')]).unwrap();
        let count = |wanted| {
            (0..4000u32).filter(|i| weighted.pick(i * (u32::MAX / 4000)) == Some(&wanted)).count()
        };
        assert!((999..=1001).contains(&count('a')));
        assert_eq!(count('z'), 0);
        assert_eq!(weighted.pick(u32::MAX), Some(&'b'));
    }

    #[test]
    fn a_number_is_found_for_each_choice() {
        let weighted = Weighted::new(vec![(1, 'a'), (5, 'b'), (0, 'z'), (1, 'c')]).unwrap();
        for (wanted, least) in [('a', true), ('b', false), ('c', false)] {
            let number = weighted.number_for(|choice| *choice == wanted).unwrap();
            assert_eq!(weighted.pick(number), Some(&wanted));
            assert_eq!(number == 0, least);
            assert!(least || weighted.pick(number - 1) != Some(&wanted));
        }
        assert_eq!(weighted.number_for(|choice| *choice == 'z'), None);
    }

    #[test]
    fn one_choice_takes_all_even_with_weight_zero() {
        assert_eq!(Weighted::new(vec![(0, 'a')]).unwrap().pick(u32::MAX), Some(&'a'));
        assert!(Weighted::<char>::new(vec![(0, 'a'), (0, 'b')]).is_none());
        assert!(Weighted::<char>::new(vec![]).is_none());
    }
}
