//! A product of matrices, piece by piece, in f32: what the low-rank codec spends its time on.
//!
//! A panel holds eight columns of a matrix side by side, so that eight sums run at a time. The order of
//! every sum is fixed: no fused multiply-add, and no sum is divided among threads.

/// Columns of a panel.
pub(super) const LANES: usize = 8;
/// Rows that go through a panel together.
pub(super) const ROWS: usize = 4;

/// One row of a panel.
pub(super) type Lanes = [f32; LANES];

/// `sums[i][lane]` = Σ `rows[i][k]` · `panel[k][lane]`, k ascending, each product and sum rounded to f32,
/// from +0 on. Ends with the shortest input.
pub(super) fn multiply(rows: [&[f32]; ROWS], panel: &[Lanes]) -> [Lanes; ROWS] {
    let mut sums = [[0.0; LANES]; ROWS];
    let [a, b, c, d] = rows;
    for ((((panel, a), b), c), d) in panel.iter().zip(a).zip(b).zip(c).zip(d) {
        for (sums, x) in sums.iter_mut().zip([a, b, c, d]) {
            for (sum, y) in sums.iter_mut().zip(panel) {
                *sum += x * y;
            }
        }
    }
    sums
}

/// Four rows from `first` on of a matrix in `columns` columns; a row past the end is empty.
pub(super) fn four_rows(matrix: &[f32], columns: usize, first: usize) -> [&[f32]; ROWS] {
    [0, 1, 2, 3].map(|i| {
        let start = (first + i) * columns;
        matrix.get(start..start + columns).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_is_that_of_the_definition() {
        let left: Vec<f32> = (0..ROWS * 3).map(|i| i as f32 - 4.0).collect();
        let rows = four_rows(&left, 3, 0);
        let panel: Vec<Lanes> = (0..3)
            .map(|k| std::array::from_fn(|lane| (k * 10 + lane) as f32))
            .collect();
        let sums = multiply(rows, &panel);
        for (i, sums) in sums.iter().enumerate() {
            for (lane, sum) in sums.iter().enumerate() {
                let expected: f32 = (0..3).map(|k| rows[i][k] * panel[k][lane]).sum();
                assert_eq!(*sum, expected);
            }
        }
    }
}
