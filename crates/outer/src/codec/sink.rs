//! Where decoded values go: into a vector, or into a sum.

/// Where decoded values go. Places count from the start of the part.
pub(crate) trait Sink {
    /// A run of values from `at` on.
    fn run(&mut self, at: usize, values: &[f32]);
    /// One value at `at`.
    fn one(&mut self, at: usize, value: f32);
}

/// Overwrites.
pub(crate) struct Set<'a>(pub(crate) &'a mut [f32]);

impl Sink for Set<'_> {
    fn run(&mut self, at: usize, values: &[f32]) {
        self.0[at..at + values.len()].copy_from_slice(values);
    }
    fn one(&mut self, at: usize, value: f32) {
        self.0[at] = value;
    }
}

/// Adds with a weight, in f64.
pub(crate) struct Add<'a> {
    pub(crate) weight: f64,
    pub(crate) sums: &'a mut [f64],
}

impl Sink for Add<'_> {
    fn run(&mut self, at: usize, values: &[f32]) {
        for (sum, value) in self.sums[at..at + values.len()].iter_mut().zip(values) {
            *sum += self.weight * f64::from(*value);
        }
    }
    fn one(&mut self, at: usize, value: f32) {
        self.sums[at] += self.weight * f64::from(value);
    }
}

/// Adds or subtracts, in f32.
pub(crate) struct Shift<'a> {
    /// 1 or −1.
    pub(crate) sign: f32,
    pub(crate) values: &'a mut [f32],
}

impl Sink for Shift<'_> {
    fn run(&mut self, at: usize, values: &[f32]) {
        for (sum, value) in self.values[at..at + values.len()].iter_mut().zip(values) {
            *sum += self.sign * value;
        }
    }
    fn one(&mut self, at: usize, value: f32) {
        self.values[at] += self.sign * value;
    }
}
