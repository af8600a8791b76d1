"""Finding names of published data sets: a column of one of these names that holds 0 or 1 is a label by itself."""

from cbmir.aliases import plain

CHEXPERT = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The fourteen observations of the CheXpert labeler (Irvin et al., AAAI 2019); MIMIC-CXR and BRAX use them too."""

NIH14 = (
    "No Finding",
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""NIH ChestX-ray14 (Wang et al., CVPR 2017)."""

VINDR_CXR = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
    "COPD",
    "Lung tumor",
    "Pneumonia",
    "Tuberculosis",
    "Other diseases",
    "Other disease",
    "No finding",
)
"""VinDr-CXR (Nguyen et al., Scientific Data 2022); the two editions differ in the plural of the last disease."""

CT_RATE = (
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
)
"""CT-RATE (Hamamci et al., 2024)."""

RSNA_HEMORRHAGE = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
"""RSNA intracranial hemorrhage (Flanders et al., Radiology: AI 2020)."""

ISIC_2019 = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "AKIEC")
"""Diagnoses of the ISIC challenges of 2018 and 2019."""

_OTHERS = ("COVID-19", "Nodule", "Mass", "Effusion", "Pleural Thickening", "Airspace Opacity", "Normal", "Tuberculosis")
FINDINGS = frozenset(
    plain(name)
    for names in (CHEXPERT, NIH14, VINDR_CXR, CT_RATE, RSNA_HEMORRHAGE, ISIC_2019, _OTHERS)
    for name in names
)
"""All of them, without what doesn't matter in a name; others are taken with ``--label-columns``."""


def is_finding(name: str) -> bool:
    """Whether a column name is a finding of a published data set."""
    return plain(name) in FINDINGS
