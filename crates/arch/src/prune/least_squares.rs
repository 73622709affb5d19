//! Least squares with an intercept, from sums over the rows.

use crate::error::Result;
use tch::{Device, Kind, Tensor};

/// Sums over the rows (x, y) of several problems y ≈ W · x + c at once, one for each group of a
/// convolution: x has K values and y M. In float64.
#[derive(Debug)]
pub(super) struct LeastSquares {
    rows: f64,
    /// Sums of x: [groups, K].
    x: Tensor,
    /// Sums of y: [groups, M].
    y: Tensor,
    /// Sums of x · xᵀ: [groups, K, K].
    xx: Tensor,
    /// Sums of x · yᵀ: [groups, K, M].
    xy: Tensor,
    /// Sums of y²: [groups, M].
    yy: Tensor,
}

impl LeastSquares {
    /// Nothing so far.
    pub fn new([groups, k, m]: [i64; 3], device: Device) -> Result<Self> {
        let zeros = |shape: &[i64]| Tensor::f_zeros(shape, (Kind::Double, device));
        Ok(Self {
            rows: 0.0,
            x: zeros(&[groups, k])?,
            y: zeros(&[groups, m])?,
            xx: zeros(&[groups, k, k])?,
            xy: zeros(&[groups, k, m])?,
            yy: zeros(&[groups, m])?,
        })
    }

    /// Adds rows: `x` [groups, rows, K] and `y` [groups, rows, M].
    pub fn add(&mut self, x: &Tensor, y: &Tensor) -> Result<()> {
        let sum = |of: &Tensor| of.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
        let transposed = x.f_transpose(1, 2)?;
        self.rows += x.size3()?.1 as f64;
        self.x = self.x.f_add(&sum(x)?)?;
        self.y = self.y.f_add(&sum(y)?)?;
        self.xx = self.xx.f_add(&transposed.f_bmm(x)?.f_to_kind(Kind::Double)?)?;
        self.xy = self.xy.f_add(&transposed.f_bmm(y)?.f_to_kind(Kind::Double)?)?;
        self.yy = self.yy.f_add(&sum(&y.f_square()?)?)?;
        Ok(())
    }

    /// The sums of both.
    pub fn with(&self, other: &Self) -> Result<Self> {
        Ok(Self {
            rows: self.rows + other.rows,
            x: self.x.f_add(&other.x)?,
            y: self.y.f_add(&other.y)?,
            xx: self.xx.f_add(&other.xx)?,
            xy: self.xy.f_add(&other.xy)?,
            yy: self.yy.f_add(&other.yy)?,
        })
    }

    /// The same about the means, divided by the rows: x · xᵀ, x · yᵀ and y².
    fn centered(&self) -> Result<[Tensor; 3]> {
        let [x, y] = [self.x.f_div_scalar(self.rows)?, self.y.f_div_scalar(self.rows)?];
        let outer = |a: &Tensor, b: &Tensor| a.f_unsqueeze(2)?.f_mul(&b.f_unsqueeze(1)?);
        Ok([
            self.xx.f_div_scalar(self.rows)?.f_sub(&outer(&x, &x)?)?,
            self.xy.f_div_scalar(self.rows)?.f_sub(&outer(&x, &y)?)?,
            self.yy.f_div_scalar(self.rows)?.f_sub(&y.f_square()?)?,
        ])
    }

    /// The weights [groups, K, M] nearest to `start` in the sense of a ridge: they minimize the
    /// mean of |W·x + c − y|² + `ridge` · v · |W − start|², where v is the mean variance of x.
    /// Directions that x never takes stay as they are in `start`. `None` where rounding leaves no
    /// solution.
    pub fn solve(&self, start: &Tensor, ridge: f64) -> Result<Option<Tensor>> {
        let [xx, xy, _] = self.centered()?;
        let k = xx.size3()?.1;
        let variance = xx.f_diagonal(0, 1, 2)?.f_mean_dim([1i64].as_slice(), true, Kind::Double)?.f_unsqueeze(2)?;
        // Where x never changes any number will do.
        let pull = variance.f_mul_scalar(ridge)?.f_clamp_min(f64::MIN_POSITIVE.sqrt())?;
        let eye = Tensor::f_eye(k, (Kind::Double, xx.device()))?;
        let missing = xy.f_sub(&xx.f_bmm(start)?)?;
        let system = xx.f_add(&eye.f_unsqueeze(0)?.f_mul(&pull)?)?;
        // A system that is not positive definite is told by its sums, which were rounded.
        let Ok(factor) = system.f_linalg_cholesky(false) else { return Ok(None) };
        let solved = start.f_add(&missing.f_cholesky_solve(&factor, false)?)?;
        let is_finite = solved.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0;
        Ok(is_finite.then_some(solved))
    }

    /// The mean of |W·x + c − y|² with the best c, for `weights` [groups, K, M]: summed over
    /// groups and M, each y times what it `counts` [groups, M].
    pub fn error(&self, weights: &Tensor, counts: &Tensor) -> Result<f64> {
        let [xx, xy, yy] = self.centered()?;
        let explained = weights.f_mul(&xy.f_mul_scalar(2.0)?.f_sub(&xx.f_bmm(weights)?)?)?;
        let explained = explained.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        Ok(yy.f_sub(&explained)?.f_mul(counts)?.f_sum(Kind::Double)?.f_double_value(&[])?)
    }

    /// Mean and variance of W · x, and the best intercept c, for `weights` [groups, K, M]: each
    /// `[groups · M]`.
    pub fn outputs(&self, weights: &Tensor) -> Result<[Tensor; 3]> {
        let [xx, ..] = self.centered()?;
        let x = self.x.f_div_scalar(self.rows)?.f_unsqueeze(1)?;
        let mean = x.f_bmm(weights)?.f_squeeze_dim(1)?;
        let variance = weights.f_mul(&xx.f_bmm(weights)?)?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        let intercept = self.y.f_div_scalar(self.rows)?.f_sub(&mean)?;
        Ok([mean.f_flatten(0, -1)?, variance.f_clamp_min(0.0)?.f_flatten(0, -1)?, intercept.f_flatten(0, -1)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use torch_ext::normal;

    fn doubles(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.flatten(0, -1)).unwrap()
    }

    /// Two groups of 500 rows y = W · x + c without noise.
    fn exact() -> (LeastSquares, Tensor, [f64; 2]) {
        let x = normal(&[2, 500, 3], 1).unwrap().to_kind(Kind::Double) + 0.5;
        let weights = normal(&[2, 3, 1], 2).unwrap().to_kind(Kind::Double);
        let intercepts = [2.0, -1.0];
        let c = Tensor::from_slice(&intercepts).view([2, 1, 1]);
        let mut sums = LeastSquares::new([2, 3, 1], Device::Cpu).unwrap();
        sums.add(&x, &(x.bmm(&weights) + c)).unwrap();
        (sums, weights, intercepts)
    }

    #[test]
    fn what_rows_were_made_with_is_found_and_explains_them() {
        let (sums, weights, intercepts) = exact();
        let start = weights.zeros_like();
        let alike = Tensor::ones([2, 1], (Kind::Double, Device::Cpu));
        let found = sums.solve(&start, 1e-12).unwrap().unwrap();
        assert!((&found - &weights).abs().max().double_value(&[]) < 1e-9);
        assert!(sums.error(&found, &alike).unwrap().abs() < 1e-9);
        assert!(sums.error(&start, &alike).unwrap() > 0.1);
        let [.., intercept] = sums.outputs(&found).unwrap();
        for (found, expected) in doubles(&intercept).iter().zip(intercepts) {
            assert!((found - expected).abs() < 1e-8, "{found}");
        }
        // A strong pull leaves the weights where they were.
        let pulled = sums.solve(&start, 1e9).unwrap().unwrap();
        assert!(pulled.abs().max().double_value(&[]) < 1e-6);
        // Sums in two parts are sums.
        let twice = sums.with(&sums).unwrap();
        assert!((twice.solve(&start, 1e-12).unwrap().unwrap() - &found).abs().max().double_value(&[]) < 1e-9);
    }

    #[test]
    fn directions_that_rows_never_take_stay() {
        // The second value is twice the first, the third is constant: of eight numbers only what
        // they come to together is known.
        let first = normal(&[1, 100, 1], 3).unwrap().to_kind(Kind::Double);
        let x = Tensor::cat(&[&first, &(&first * 2.0), &first.ones_like()], 2);
        let mut sums = LeastSquares::new([1, 3, 1], Device::Cpu).unwrap();
        sums.add(&x, &(&first * 5.0 + 7.0)).unwrap();
        let start = Tensor::from_slice(&[0.0, 0.0, 4.0]).view([1, 3, 1]);
        let found = sums.solve(&start, 1e-9).unwrap().unwrap();
        let values = doubles(&found);
        // The nearest to zero with w1 + 2 · w2 = 5.
        for (found, expected) in values.iter().zip([1.0, 2.0, 4.0]) {
            assert!((found - expected).abs() < 1e-5, "{values:?}");
        }
        let [mean, variance, intercept] = sums.outputs(&found).unwrap();
        assert!(
            (doubles(&mean)[0] + doubles(&intercept)[0] - 7.0 - 5.0 * first.mean(Kind::Double).double_value(&[])).abs()
                < 1e-5
        );
        assert!((doubles(&variance)[0] - 25.0 * first.var(false).double_value(&[])).abs() < 1e-4);
    }
}
