"""What may leave a DICOM header, and how: pseudonyms, shifted dates, an allow-list, and an account of it all."""
