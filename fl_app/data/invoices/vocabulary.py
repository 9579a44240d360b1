"""The words of invoices: real languages and invented ones.

A field's synonyms are separated by "|". Words of the pretraining pool and of the federated pool
are disjoint languages, so a pretrained model meets unknown labels in every federated provider.
"""

from dataclasses import dataclass

import numpy as np

FIELDS = (
    "invoice_number",
    "invoice_date",
    "due_date",
    "order_number",
    "customer",
    "subtotal",
    "tax",
    "total",
)
# Printed like fields, but never asked for: a model cannot answer by the form of a value alone.
DISTRACTORS = ("delivery_date", "account_number", "shipping")
HEADINGS = ("title", "description", "quantity", "amount")


@dataclass(frozen=True)
class Vocabulary:
    """Words of one language.

    Attributes
    ----------
    labels : dict
        Field, distractor or heading -> its synonyms.
    months : tuple of str
        The twelve names.
    companies : tuple of str
        Legal forms of companies.
    closing : tuple of str
        Texts of a footer.
    """

    labels: dict[str, tuple[str, ...]]
    months: tuple[str, ...]
    companies: tuple[str, ...]
    closing: tuple[str, ...]


def _vocabulary(labels: str, months: str, companies: str, closing: str) -> Vocabulary:
    """Return a vocabulary from lines of synonyms in the order FIELDS, DISTRACTORS, HEADINGS."""
    lines = [line.strip() for line in labels.strip().splitlines()]
    names = FIELDS + DISTRACTORS + HEADINGS
    return Vocabulary(
        {name: tuple(line.split("|")) for name, line in zip(names, lines, strict=True)},
        tuple(months.split()),
        tuple(companies.split()),
        tuple(closing.split("|")),
    )


ENGLISH = _vocabulary(
    """Invoice number|Invoice no.|Inv #|Document no.|Bill number|Reference
    Invoice date|Date|Issue date|Date of issue|Billing date|Issued on
    Due date|Payment due|Pay by|Due on|Payable until|Deadline
    Order number|PO number|Purchase order|Order ref.|Your order|PO #
    Bill to|Customer|Sold to|Client|Billed to|Buyer
    Subtotal|Net amount|Net total|Amount before tax|Sum|Goods value
    Tax|VAT|Sales tax|VAT amount|Tax amount|GST
    Total|Total amount|Amount due|Grand total|Balance due|To pay
    Delivery date|Shipped on
    Customer no.|Account
    Shipping|Freight
    Invoice|Tax invoice|Bill
    Description|Item
    Qty|Quantity
    Amount|Line total""",
    "January February March April May June July August September October November December",
    "Ltd Inc LLC Co Group",
    "Thank you|Please quote|E & OE",
)
DUTCH = _vocabulary(
    """Factuurnummer|Factuur nr.|Nummer
    Factuurdatum|Datum|Opgemaakt op
    Vervaldatum|Te betalen voor|Uiterlijk
    Bestelnummer|Uw bestelling|Opdracht
    Klant|Aan|Factuuradres
    Subtotaal|Totaal excl. btw|Netto
    Btw|Btw bedrag|Belasting
    Totaal|Te betalen|Totaal incl. btw
    Leverdatum|Geleverd op
    Klantnummer|Relatie
    Verzendkosten|Vracht
    Factuur|Rekening
    Omschrijving|Artikel
    Aantal|Stuks
    Bedrag|Regel""",
    "januari februari maart april mei juni juli augustus september oktober november december",
    "BV NV VOF",
    "Bedankt|Graag vermelden",
)
DANISH = _vocabulary(
    """Fakturanummer|Faktura nr.|Bilag
    Fakturadato|Dato|Udstedt
    Forfaldsdato|Betales senest|Forfald
    Ordrenummer|Ordre nr.|Rekvisition
    Kunde|Faktureres til|Modtager
    Nettobeløb|Beløb uden moms|Varer i alt
    Moms|Momsbeløb|Afgift
    I alt|At betale|Beløb i alt
    Leveringsdato|Leveret den
    Kundenummer|Konto
    Fragt|Porto
    Faktura|Regning
    Beskrivelse|Vare
    Antal|Stk
    Beløb|Linje""",
    "januar februar marts april maj juni juli august september oktober november december",
    "ApS A/S IVS",
    "Tak for handlen|Med venlig hilsen",
)
GERMAN = _vocabulary(
    """Rechnungsnummer|Beleg-Nr.
    Rechnungsdatum|Ausgestellt am
    Fällig am|Zahlbar bis
    Bestellnummer|Ihr Auftrag
    Kunde|Rechnung an
    Zwischensumme|Nettobetrag
    MwSt.|Umsatzsteuer
    Gesamtbetrag|Zu zahlen
    Lieferdatum|Geliefert am
    Kundennummer|Konto-Nr.
    Versand|Fracht
    Rechnung|Beleg
    Bezeichnung|Artikel
    Menge|Anzahl
    Betrag|Summe""",
    "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "GmbH AG KG",
    "Vielen Dank|Bitte angeben",
)
FRENCH = _vocabulary(
    """Numéro de facture|Pièce n°
    Date de facture|Émise le
    Échéance|À régler avant le
    Bon de commande|Votre commande
    Facturé à|Destinataire
    Total HT|Montant hors taxe
    TVA|Taxe
    Total TTC|Net à payer
    Livrée le|Date de livraison
    Compte client|Réf. client
    Port|Frais d'envoi
    Facture|Avis
    Désignation|Libellé
    Qté|Nombre
    Montant|Valeur""",
    "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "SARL SAS SA",
    "Merci|Avec nos remerciements",
)
SPANISH = _vocabulary(
    """Número de factura|Folio
    Fecha de emisión|Fecha
    Vencimiento|Pagar antes del
    Pedido|Orden de compra
    Cliente|Facturar a
    Base imponible|Importe neto
    IVA|Impuestos
    Importe total|Total a pagar
    Fecha de entrega|Entregado
    Cuenta|Código de cliente
    Portes|Envío
    Factura|Recibo
    Concepto|Detalle
    Cantidad|Uds.
    Importe|Línea""",
    "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "SL SA SLU",
    "Muchas gracias|Gracias",
)
ITALIAN = _vocabulary(
    """Fattura n.|Numero documento
    Data fattura|Emessa il
    Scadenza|Da pagare entro
    Ordine n.|Vostro ordine
    Spettabile|Intestatario
    Imponibile|Totale netto
    Imposta|IVA
    Totale fattura|Totale dovuto
    Data consegna|Consegnato il
    Codice cliente|Conto
    Trasporto|Spese
    Fattura|Parcella
    Descrizione|Articolo
    Q.tà|Pezzi
    Importo|Riga""",
    "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "Srl Spa Snc",
    "Grazie|Distinti saluti",
)
POLISH = _vocabulary(
    """Faktura nr|Numer dokumentu
    Data wystawienia|Wystawiono
    Termin płatności|Zapłacić do
    Zamówienie|Nr zlecenia
    Nabywca|Odbiorca
    Wartość netto|Razem netto
    Kwota VAT|Podatek
    Do zapłaty|Razem brutto
    Data dostawy|Dostarczono
    Nr klienta|Konto
    Przesyłka|Transport
    Faktura|Rachunek
    Nazwa|Towar
    Ilość|Sztuk
    Wartość|Kwota""",
    "stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października "
    "listopada grudnia",
    "Sp.zoo SA SK",
    "Dziękujemy|Zapraszamy",
)
FINNISH = _vocabulary(
    """Laskun numero|Laskunro
    Laskun päiväys|Päivämäärä
    Eräpäivä|Maksettava viimeistään
    Tilausnumero|Viitteenne
    Asiakas|Laskutusosoite
    Veroton summa|Välisumma
    Alv|Veron osuus
    Yhteensä|Maksettavaa
    Toimituspäivä|Toimitettu
    Asiakasnumero|Tili
    Rahti|Toimituskulut
    Lasku|Tosite
    Kuvaus|Tuote
    Määrä|Kpl
    Summa|Rivi""",
    "tammikuuta helmikuuta maaliskuuta huhtikuuta toukokuuta kesäkuuta heinäkuuta elokuuta "
    "syyskuuta lokakuuta marraskuuta joulukuuta",
    "Oy Oyj Ky",
    "Kiitos|Tervetuloa",
)

_ONSETS = (*"bdfgklmnprstvz", "br", "dr", "gr", "kl", "pr", "st", "tr", "sk")
_VOWELS = (*"aeiou", "ai", "ei", "ou")
_CODAS = ("", "", "", "n", "r", "s", "l", "k")


def pseudo_word(rng: np.random.Generator, syllables: int) -> str:
    """Return a made-up pronounceable word in lower case."""
    parts = []
    for _ in range(syllables):
        for letters in (_ONSETS, _VOWELS, _CODAS):
            parts.append(letters[rng.integers(len(letters))])
    return "".join(parts)


def invented(number: int, synonyms: int = 2) -> Vocabulary:
    """Return a made-up language; the same number gives the same words."""
    rng = np.random.default_rng(np.random.SeedSequence([0x10C, number]))

    def phrase() -> str:
        words = [pseudo_word(rng, 2)] + [pseudo_word(rng, 1)] * int(rng.integers(2))
        return " ".join(words).capitalize()

    return Vocabulary(
        {
            name: tuple(phrase() for _ in range(synonyms))
            for name in FIELDS + DISTRACTORS + HEADINGS
        },
        tuple(pseudo_word(rng, 2) for _ in range(12)),
        tuple(pseudo_word(rng, 1).capitalize() for _ in range(3)),
        tuple(" ".join(pseudo_word(rng, 1) for _ in range(3)) for _ in range(2)),
    )


PRETRAINING = (*(6 * [ENGLISH]), DUTCH, DANISH, *(invented(n) for n in range(20)))
FEDERATED = (GERMAN, FRENCH, SPANISH, ITALIAN, invented(100))
