"""Complex numbers, and Fourier transforms in the forms that check sizes and axes themselves."""

from tracer.ops.record import named

RECORDS = named(
    """
    aten._conj.default
    aten.angle.default
    aten.complex.default
    aten.conj_physical.default
    aten.imag.default
    aten.polar.default
    aten.real.default
    aten.resolve_conj.default
    aten.view_as_complex.default
    aten.view_as_real.default
    aten.fft_fft.default
    aten.fft_fft2.default
    aten.fft_fftn.default
    aten.fft_fftshift.default
    aten.fft_hfft.default
    aten.fft_ifft.default
    aten.fft_ifft2.default
    aten.fft_ifftn.default
    aten.fft_ifftshift.default
    aten.fft_ihfft.default
    aten.fft_irfft.default
    aten.fft_irfft2.default
    aten.fft_irfftn.default
    aten.fft_rfft.default
    aten.fft_rfft2.default
    aten.fft_rfftn.default
    """
)
